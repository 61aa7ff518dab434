"""`data=git` on a repository that is made here, with what real ones hold."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from conf.choices import Source
from conf.errors import DataError
from conf.schema import CorpusConfig, Settings, StageConfig
from train.data import git_history
from train.data.documents import Document
from train.data.dropped import Dropped
from train.data.fingerprint import fingerprint
from train.data.git_history import borders_of, git_shards, read_git
from train.data.git_program import git_environment
from train.data.prepare import prepare
from train.data.shard import list_shards

ANN = ("Ann", "ann@example.org")


def git(folder: Path, *words: str, author: tuple[str, str] = ANN, data: bytes | None = None) -> str:
    name, email = author
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", name), ("EMAIL", email))
    }
    env = {**git_environment(), **identity, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    dates = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}
    done = subprocess.run(
        ["git", "-C", folder, *words], env={**env, **dates}, input=data, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def commit(folder: Path, files: dict[str | bytes, bytes], message: str, author: tuple[str, str] = ANN) -> str:
    for name, content in files.items():
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "--allow-empty-message", "-m", message, author=author)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repositories") / "one"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "core.autocrlf", "false")
    commit(folder, {"a.py": b"x = 1\n", "b.go": b"package b\n", "n.md": b"# n\n"}, "Begin\n\nSigned-off-by: Ann <a@b>")
    commit(folder, {"a.py": b"x = 2"}, "Raise x\n\nIt was low.")  # no end of the last line
    commit(folder, {"crlf.py": b"a\r\nb\r\n"}, "Windows")
    commit(folder, {"crlf.py": b"a\r\nc\r\n"}, "Windows again")
    body = b"".join(b"line %d\n" % number for number in range(20))
    commit(folder, {"long.py": body}, "Lines")
    git(folder, "mv", "long.py", "renamed.py")
    commit(folder, {"renamed.py": body + b"more\n"}, "Rename and add")
    git(folder, "mv", "b.go", "c.go")
    commit(folder, {}, "Rename only")
    commit(folder, {"d.py": b"\0\1"}, "Binary")
    commit(folder, {"e.py": b"caf\xe9\n"}, "Latin 1")
    commit(folder, {b"\xff.py": b"x\n"}, "A name that is no UTF-8")
    commit(folder, {"f g\t\xe9.py": b"x\n"}, "A name that git quotes")
    commit(folder, {"a.py": b"x = 3\n"}, "bump", ("dependabot[bot]", "1+dependabot[bot]@users.noreply.github.com"))
    commit(folder, {"a.py": b"x = 4\n"}, "")
    git(folder, "rm", "-q", "crlf.py")
    commit(folder, {}, "Remove")
    os.symlink("a.py", folder / "link.py")
    commit(folder, {}, "Link")
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module.py")
    git(folder, "commit", "-q", "-m", "Submodule")
    git(folder, "checkout", "-q", "-b", "side", "HEAD~1")
    commit(folder, {"side.py": b"s\n"}, "Side")
    git(folder, "checkout", "-q", "main")
    git(folder, "merge", "-q", "--no-ff", "-m", "Merge", "side")
    commit(folder, {f"many{number}.py": b"%d\n" % number for number in range(5)}, "Many")
    commit(folder, {"large.py": b"x\n" * 1000}, "Large")
    return folder


def corpus(*paths: Path | str, **settings: object) -> CorpusConfig:
    limits = {"max_document_bytes": 1000, "max_changed_files": 4, "code": True, **settings}
    return CorpusConfig(source=Source.git, name="c", paths=list(map(str, paths)), **limits)  # type: ignore[arg-type]


def harvest(config: CorpusConfig) -> tuple[list[Document], Dropped]:
    dropped = Dropped()
    found = [
        one for shard in git_shards("c", config) for one in read_git(shard.part, shard.state.changed, config, dropped)
    ]
    return found, dropped


def test_each_change_of_a_file_is_a_document_and_the_rest_is_counted(repository: Path) -> None:
    documents, dropped = harvest(corpus(repository))
    texts = [one.text for one in documents]
    numbered = "".join(f"line {number}\n" for number in range(20))
    assert sorted(texts) == sorted(
        [
            "<NME> a.py\n<BEF> ADDFILE\n<MSG> Begin\n<DFF> @@ -0,0 +1 @@\n+x = 1\n",
            "<NME> b.go\n<BEF> ADDFILE\n<MSG> Begin\n<DFF> @@ -0,0 +1 @@\n+package b\n",
            "<NME> a.py\n<BEF> x = 1\n\n<MSG> Raise x\n\nIt was low.\n<DFF> @@ -1 +1 @@\n-x = 1\n+x = 2\n"
            "\\ No newline at end of file\n",
            "<NME> crlf.py\n<BEF> ADDFILE\n<MSG> Windows\n<DFF> @@ -0,0 +1,2 @@\n+a\r\n+b\r\n",
            "<NME> crlf.py\n<BEF> a\r\nb\r\n\n<MSG> Windows again\n<DFF> @@ -1,2 +1,2 @@\n a\r\n-b\r\n+c\r\n",
            "<NME> long.py\n<BEF> ADDFILE\n<MSG> Lines\n<DFF> @@ -0,0 +1,20 @@\n"
            + "".join(f"+{line}\n" for line in numbered.splitlines()),
            f"<NME> long.py\n<BEF> {numbered}\n<MSG> Rename and add\n<DFF> @@ -18,3 +18,4 @@\n"
            " line 17\n line 18\n line 19\n+more\n",
            "<NME> f g\t\xe9.py\n<BEF> ADDFILE\n<MSG> A name that git quotes\n<DFF> @@ -0,0 +1 @@\n+x\n",
            "<NME> side.py\n<BEF> ADDFILE\n<MSG> Side\n<DFF> @@ -0,0 +1 @@\n+s\n",
        ]
    )
    assert dropped.counts == {
        "unknown file type": 1,
        "no line changed": 1,
        "binary file": 1,
        "not UTF-8": 2,
        "commit of a bot": 1,
        "commit without a message": 1,
        "deleted file": 1,
        "link or submodule": 2,
        "merge commit": 1,
        "commit of many files": 1,
        "large document": 1,
    }
    first = next(one for one in documents if "<NME> a.py\n<BEF> ADDFILE" in one.text)
    assert (first.language, first.repository) == ("Python", "one")
    assert first.source.startswith("one@") and first.source.endswith(":a.py")


def test_what_is_checked_out_and_how_it_is_divided_change_nothing(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, dropped = harvest(corpus(repository))
    bare = tmp_path / "one"
    git(tmp_path, "clone", "-q", "--bare", str(repository), str(bare))
    (bare / "info").mkdir(exist_ok=True)
    (bare / "info" / "attributes").write_text("*.py -diff\n")
    for key, value in (("diff.renames", "false"), ("diff.noprefix", "true"), ("diff.orderFile", "/nowhere")):
        git(bare, "config", key, value)
    monkeypatch.setattr(git_history, "SHARD_COMMITS", 5)
    assert len(list(git_shards("c", corpus(bare)))) == 4
    again, dropped_again = harvest(corpus(bare))
    assert again == documents and dropped_again.counts == dropped.counts


def test_languages_and_other_endings_are_chosen(repository: Path) -> None:
    assert {one.language for one in harvest(corpus(repository, languages=["Go"]))[0]} == {"Go"}
    names = {one.source.partition(":")[2] for one in harvest(corpus(repository, extensions=[".md"]))[0]}
    assert {"n.md", "a.py"} <= names


def test_files_of_a_shallow_clones_end_are_not_new(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth", "2", repository.as_uri(), "cut")
    documents, dropped = harvest(corpus(tmp_path / "cut"))
    assert documents == [] and dropped.counts["commit whose parent was not fetched"] == 1
    assert borders_of(str(tmp_path / "cut"), "mono")
    git(tmp_path / "cut", "fetch", "-q", "--unshallow")
    assert not borders_of(str(tmp_path / "cut"), "mono") and harvest(corpus(tmp_path / "cut"))[0]


def test_a_damaged_repository_is_one_line(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main", "bad")
    for number in range(3):
        commit(tmp_path / "bad", {"a.py": b"%d\n" % number}, f"Number {number}")
    shard, *_ = git_shards("c", corpus(tmp_path / "bad"))
    objects = tmp_path / "bad/.git/objects"
    blob, tree = (git(tmp_path / "bad", "rev-parse", f"HEAD~1{what}") for what in (":a.py", "^{tree}"))
    whole = (objects / blob[:2] / blob[2:]).read_bytes()
    (objects / blob[:2] / blob[2:]).unlink()
    dropped = Dropped()
    assert len(list(read_git(shard.part, shard.state.changed, corpus(tmp_path / "bad"), dropped))) == 1
    assert dropped.counts == {"file that is large or was not fetched": 2}
    (objects / blob[:2] / blob[2:]).write_bytes(whole)
    (objects / tree[:2] / tree[2:]).unlink()
    with pytest.raises(DataError, match="bad: git cannot read its commits: ") as caught:
        list(read_git(shard.part, shard.state.changed, corpus(tmp_path / "bad"), Dropped()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "nowhere is no git repository"),
        ("*", r"\* matches no git repository"),
        ("empty", "empty has no commit"),
    ],
)
def test_what_is_no_repository_is_one_line(name: str, said: str, tmp_path: Path) -> None:
    if name == "empty":
        git(tmp_path, "init", "-q", "empty")
    else:
        (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=rf"data\.corpora\.c\.paths: .*{said}$"):
        list(git_shards("c", corpus(tmp_path / name)))


def test_a_path_means_itself_before_it_is_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / 'a [1] "b'
    git(tmp_path, "init", "-q", "-b", "main", str(folder))
    commit(folder, {"a.py": b"x\n"}, "m")
    assert [one.text for one in harvest(corpus(folder))[0]] == [
        "<NME> a.py\n<BEF> ADDFILE\n<MSG> m\n<DFF> @@ -0,0 +1 @@\n+x\n"
    ]


def test_a_repository_of_another_user_is_refused_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q", "-b", "main", "theirs")
    commit(tmp_path / "theirs", {"a.py": b"x\n"}, "m")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own tests know it
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    with pytest.raises(
        DataError, match=r"cannot be read by git: .*; if you trust it, run git config .*safe\.directory .*theirs"
    ):
        list(git_shards("c", corpus(tmp_path / "theirs")))


def test_repositories_are_prepared_and_a_fork_adds_only_what_is_its_own(
    repository: Path, settings: Settings, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "-q", str(repository), "fork")
    commit(tmp_path / "fork", {"own.py": b"own = 1\n"}, "Own")
    both = corpus(repository, tmp_path / "fork", text_column="text")
    data = replace(settings.data, corpora={"c": both}, validation_fraction=0.3)
    model = replace(settings.model, vocab_size=300)
    settings = replace(settings, model=model, data=data, stages={"c": StageConfig(corpus="c", global_batch_size=1)})
    before = fingerprint(settings)
    prepared = prepare(settings, log=lambda line: None)
    files = prepared.corpora["c"]
    assert files.train_documents + files.validation_documents == 10
    assert prepared.corpora["c"].dropped["duplicate"] == 9
    assert prepared.tokenizer().decode(prepared.tokenizer().encode("<NME> a\r\n")) == "<NME> a\r\n"
    commit(tmp_path / "fork", {"own.py": b"own = 2\n"}, "Own again")
    assert fingerprint(settings) != before
    assert [shard.parts[0].name for shard in list_shards("c", both)] == [str(repository), str(tmp_path / "fork")]
