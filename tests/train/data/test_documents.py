from train.data.documents import Document, interleave, language_of


def documents(name, sizes):
    return (Document(name * size, f"{name}{index}") for index, size in enumerate(sizes))


def test_interleaving_follows_the_weights_and_loses_nothing():
    merged = list(interleave([(documents("a", [10] * 30), 2.0), (documents("b", [10] * 30), 1.0)]))
    assert len(merged) == 60
    first = "".join(document.text for document in merged[:30])
    assert first.count("a") == 200 and first.count("b") == 100
    assert [document.source for document in merged if "a" in document.text] == [f"a{index}" for index in range(30)]


def test_an_empty_stream_leaves_the_others_going():
    merged = list(interleave([(documents("a", []), 1.0), (documents("b", [1, 2]), 1.0)]))
    assert [document.text for document in merged] == ["b", "bb"]


def test_headers_are_told_apart_by_what_they_hold():
    assert language_of(".h", "int f(void);") == "C"
    assert language_of(".h", "namespace at { int f(); }") == "C++"
    assert language_of(".PY", "") == "Python"
    assert language_of(".txt", "") is None
