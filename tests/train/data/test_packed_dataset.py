import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.packed_dataset import IGNORE_INDEX, PackedDataset, ShuffledOrder
from train.data.token_file import TokenFileWriter


def write(folder, tokens, dtype="<u2"):
    path = folder / "tokens.bin"
    with TokenFileWriter(path, dtype) as file:
        file.write(numpy.arange(tokens))
    return path


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
@pytest.mark.parametrize("tokens", [2, 8, 9, 10, 16, 17, 18, 100])
def test_every_token_but_the_first_is_predicted_exactly_once(tmp_path, tokens, dtype):
    dataset = PackedDataset(write(tmp_path, tokens, dtype), dtype, 8, keep_last=True)
    predicted = []
    for index in range(len(dataset)):
        inputs, labels = dataset[index]
        assert inputs.shape == labels.shape == (8,)
        assert inputs.dtype == labels.dtype == numpy.int64
        real = labels != IGNORE_INDEX
        assert (labels[real] == inputs[real] + 1).all(), "a label is the token after its input"
        predicted += labels[real].tolist()
    assert predicted == list(range(1, tokens))


def test_an_incomplete_last_sample_is_dropped(tmp_path):
    assert len(PackedDataset(write(tmp_path, 16), "<u2", 8)) == 1
    dataset = PackedDataset(write(tmp_path, 17), "<u2", 8)
    assert len(dataset) == 2
    assert dataset[1][0].tolist() == list(range(8, 16))
    assert dataset[1][1].tolist() == list(range(9, 17))
    for beyond in (-1, 2):
        with pytest.raises(IndexError):
            dataset[beyond]


@given(st.integers(1, 50), st.integers(0, 2**32), st.integers(0, 3))
def test_each_epoch_visits_every_sample_once(size, seed, epoch):
    order = ShuffledOrder(size, seed)
    visited = [order[position] for position in range(epoch * size, (epoch + 1) * size)]
    assert sorted(visited) == list(range(size))


def test_random_access_equals_reading_in_order():
    sequential = [ShuffledOrder(37, 5)[sample] for sample in range(200)]
    order = ShuffledOrder(37, 5)
    assert [order[sample] for sample in range(200)] == sequential
    for sample in (199, 0, 100, 36, 37):
        assert order[sample] == sequential[sample]


def test_epochs_and_seeds_have_orders_of_their_own():
    order, other = ShuffledOrder(1000, 1), ShuffledOrder(1000, 2)
    first = [order[sample] for sample in range(1000)]
    assert first != [order[sample] for sample in range(1000, 2000)]
    assert first != [other[sample] for sample in range(1000)]


def test_the_order_is_the_same_on_every_machine():
    assert [ShuffledOrder(10, 1234)[sample] for sample in range(10)] == [1, 3, 4, 0, 2, 9, 8, 5, 7, 6]


def test_an_order_needs_a_sample_and_a_position():
    with pytest.raises(ValueError, match="at least one sample"):
        ShuffledOrder(0, 1)
    with pytest.raises(IndexError):
        ShuffledOrder(3, 1)[-1]


def test_documents_begin_with_their_eos_and_where_a_sample_cuts_them(tmp_path):
    path = tmp_path / "tokens.bin"
    with TokenFileWriter(path, "<u2") as file:
        file.write([0, 5, 6, 0, 7, 8, 9, 10, 0, 11, 0, 0, 12, 0])
    dataset = PackedDataset(path, "<u2", 5, keep_last=True, document_mask=True)
    assert dataset[0][2].tolist() == [0, 1, 2, 0, 1]
    assert dataset[1][2].tolist() == [0, 1, 2, 0, 1], "the cut document begins anew"
    inputs, labels, positions = dataset[2]
    assert inputs.tolist() == [0, 0, 12, 0, 0] and labels.tolist() == [0, 12, 0, IGNORE_INDEX, IGNORE_INDEX]
    assert positions.tolist() == [0, 0, 1, 0, 1], "padding is by itself"
    plain = PackedDataset(path, "<u2", 5, keep_last=True)
    assert len(plain[0]) == 2 and all((plain[0][part] == dataset[0][part]).all() for part in (0, 1))
