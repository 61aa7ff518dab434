"""A pipeline's stages: every layer once, none empty, the costliest as cheap as any cut allows."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.compose import compose_settings
from model.flops import layer_flops, layer_parameters
from parallel.pipeline import pipeline_bounds


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 9))
def test_no_cut_is_better(costs: list[int], stages: int) -> None:
    if stages > len(costs):
        with pytest.raises(ValueError, match="cannot fill"):
            pipeline_bounds(costs, stages)
        return
    bounds = pipeline_bounds(costs, stages)
    assert bounds[0] == 0 and bounds[-1] == len(costs) and len(bounds) == stages + 1
    assert all(start < end for start, end in pairwise(bounds))

    def costliest(cuts: list[int]) -> int:
        return max(sum(costs[start:end]) for start, end in pairwise(cuts))

    best = min(costliest([0, *cuts, len(costs)]) for cuts in combinations(range(1, len(costs)), stages - 1))
    assert costliest(bounds) == best


def test_every_stage_has_something_to_train() -> None:
    costs = [30, 9, 9, 9, 30]
    assert pipeline_bounds(costs, 3) == [0, 1, 4, 5]
    assert pipeline_bounds(costs, 3, [False, True, True, True, False]) == [0, 2, 3, 5]
    with pytest.raises(ValueError, match="3 layers cannot fill 4 pipeline stages"):
        pipeline_bounds(costs, 4, [False, True, True, True, False])


@pytest.mark.parametrize("size", ["350m", "2b", "6b", "16b"])
@pytest.mark.parametrize("stages", [2, 4, 8])
@pytest.mark.parametrize("cost", [layer_flops, layer_parameters])
def test_published_sizes_split_over_2_4_and_8_stages(size: str, stages: int, cost) -> None:
    costs = cost(compose_settings([f"model={size}"]).model)
    bounds = pipeline_bounds(costs, stages)
    assert bounds[0] == 0 and bounds[-1] == len(costs) and len(bounds) == stages + 1
    assert all(start < end for start, end in pairwise(bounds))
    loads = [sum(costs[start:end]) for start, end in pairwise(bounds)]
    assert max(loads) <= sum(costs) / stages + max(costs)
