"""conf/README.md says what the YAML files say."""

from conf.compose import compose_config
from conf.meant import keys
from conf.reference import README, main, reference


def test_the_reference_is_current() -> None:
    assert README.read_text(encoding="utf-8") == reference(), "run `python -m conf.reference`"
    assert main(["--check"]) == 0


def test_every_setting_of_a_run_is_in_it_with_a_meaning() -> None:
    rows = {line.split(" | ")[0].strip("| `"): line.split(" | ") for line in reference().splitlines() if "| `" in line}
    leaves = [key for key in keys(compose_config([])) if not key.startswith(("recipe", "stages.m", "data.corpora"))]
    config = compose_config([])
    for key in leaves:
        value = config
        for part in key.split("."):
            value = value[part]
        if not hasattr(value, "keys") and not key.startswith("evaluation.sample_prompts"):
            assert rows.get(key, ["", "", ""])[2].strip(" |"), f"{key} has no row with a meaning"
