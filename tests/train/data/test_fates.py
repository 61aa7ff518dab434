"""Which documents are duplicates, and which are above a limit."""

from conf.choices import Dedup
from tests.train.data.conftest import text, write_jsonl
from tests.train.data.test_assemble import run


def test_near_duplicates_are_dropped_where_asked_for(settings, tmp_path):
    texts = [text(seed, 200) for seed in range(100)]
    write_jsonl(tmp_path / "nl.jsonl", texts + [one.replace(" ", "  ", 3) + "and more\n" for one in texts])
    assert "near duplicate" not in run(settings, tmp_path / "exact")[0]["nl"]["dropped"]
    settings.data.dedup = Dedup.minhash
    counts, manifest = run(settings, tmp_path / "near")
    assert counts["nl"]["dropped"]["near duplicate"] == 100
    assert all(int(row["path"].rpartition(":")[2]) <= 100 for row in manifest["nl"]), "the first is the one that stays"


def test_a_text_above_one_corpus_limit_is_kept_by_another(settings, tmp_path):
    texts = [text(seed) for seed in range(300)]
    for name in ("nl", "code"):
        write_jsonl(tmp_path / f"{name}.jsonl", texts)
    settings.data.corpora["nl"].max_bytes, settings.data.validation_bytes = 20_000, 10**9
    settings.data.dedup_across_corpora = True
    counts, manifest = run(settings, tmp_path / "out")
    kept = [{row["sha256"] for row in manifest[key]} for key in ("nl", "code")]
    assert not kept[0] & kept[1] and len(kept[0] | kept[1]) == 300
    assert counts["code"]["dropped"]["duplicate"] == len(kept[0])
