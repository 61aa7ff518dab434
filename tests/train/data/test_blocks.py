import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel.cross_entropy import IGNORE
from train.data.blocks import Blocks, Order


def write(folder, tokens, dtype="<u2"):
    path = folder / "tokens.bin"
    path.write_bytes(numpy.arange(tokens, dtype=dtype).tobytes())
    return path


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
@pytest.mark.parametrize("tokens", [2, 8, 9, 10, 16, 17, 18, 100])
def test_every_token_but_the_first_is_predicted_exactly_once(tmp_path, tokens, dtype):
    blocks = Blocks(write(tmp_path, tokens, dtype), dtype, 8, partial=True)
    predicted = []
    for block in range(len(blocks)):
        inputs, labels = blocks[block]
        assert inputs.shape == labels.shape == (8,)
        assert inputs.dtype == labels.dtype == numpy.int64
        real = labels != IGNORE
        assert (labels[real] == inputs[real] + 1).all(), "a label is the token after its input"
        predicted += labels[real].tolist()
    assert predicted == list(range(1, tokens))


def test_training_leaves_out_what_does_not_fill_a_block(tmp_path):
    assert len(Blocks(write(tmp_path, 16), "<u2", 8)) == 1
    blocks = Blocks(write(tmp_path, 17), "<u2", 8)
    assert len(blocks) == 2
    assert blocks[1][0].tolist() == list(range(8, 16))
    assert blocks[1][1].tolist() == list(range(9, 17))
    for beyond in (-1, 2):
        with pytest.raises(IndexError):
            blocks[beyond]


@given(st.integers(1, 50), st.integers(0, 2**32), st.integers(0, 3))
def test_each_epoch_visits_every_block_once(blocks, seed, epoch):
    order = Order(blocks, seed)
    visited = [order[sample] for sample in range(epoch * blocks, (epoch + 1) * blocks)]
    assert sorted(visited) == list(range(blocks))


def test_random_access_equals_reading_in_order():
    sequential = [Order(37, 5)[sample] for sample in range(200)]
    order = Order(37, 5)
    assert [order[sample] for sample in range(200)] == sequential
    for sample in (199, 0, 100, 36, 37):
        assert order[sample] == sequential[sample]


def test_epochs_and_seeds_have_orders_of_their_own():
    order, other = Order(1000, 1), Order(1000, 2)
    first = [order[sample] for sample in range(1000)]
    assert first != [order[sample] for sample in range(1000, 2000)]
    assert first != [other[sample] for sample in range(1000)]


def test_the_order_is_the_same_on_every_machine():
    assert [Order(10, 1234)[sample] for sample in range(10)] == [5, 4, 7, 6, 9, 3, 8, 2, 0, 1]


def test_an_order_needs_a_block_and_a_position():
    with pytest.raises(ValueError, match="at least one block"):
        Order(0, 1)
    with pytest.raises(IndexError):
        Order(3, 1)[-1]
