// Runs in the page under test: an act, then for each state of the page's address what it shows, left as JSON in the page.
setTimeout(async () => {
  const pause = ms => new Promise(done => setTimeout(done, ms));
  const settle = async () => { // the page's observer may say at any time that a panel is out of sight
    await pause(100);
    for (const panel of panels) panel.visible = true, show(panel);
    await pause(50);
  };
  const range = scale => scale && [scale.min, scale.max];
  const seen = ({ metric, root, lines, plot }) => [metric.key, {
    lines, title: metric.title, x: range(plot?.scales.x), y: range(plot?.scales.y), cursor: plot?.cursor.left,
    note: root.querySelector("small").textContent,
    empty: root.querySelector(".empty").hidden ? "" : root.querySelector(".empty").textContent,
  }];
  const look = () => ({ panels: Object.fromEntries(panels.map(seen)), wide: document.documentElement.scrollWidth - innerWidth,
    hash: location.hash, count: byId("count").textContent });
  await settle();
  const result = { acted: (() => { __ACT__ })() ?? null };
  await settle();
  Object.assign(result, look());
  result.later = [];
  for (const fragment of __FRAGMENTS__) {
    history.replaceState(null, "", fragment);
    load();
    paintList();
    update(true);
    await settle();
    result.later.push(look());
  }
  const text = document.createElement("script");
  text.type = "application/json";
  text.id = "probe";
  text.textContent = JSON.stringify(result).replaceAll("<", "\\u003c");
  document.body.append(text);
}, 200);
