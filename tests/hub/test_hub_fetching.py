"""Fetching from a hub: what an address means, room on the disk, cut connections, digests, offline."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import Hub
from tiny_gguf import write_tiny

from quantprobe.errors import FileFormatError, InputError
from quantprobe.gguf.model import read_model_info
from quantprobe.gguf.source import hub_source
from quantprobe.hub.address import HubAddress, is_address, parse_address
from quantprobe.hub.choosing import choose_models, choose_one
from quantprobe.hub.client import _bar_class, list_files
from quantprobe.hub.fetching import fetch_all, plan_fetching, require_space
from quantprobe.hub.supply import HubSupply
from quantprobe.run.folder import RunFolder
from quantprobe.sweep.inputs import SILENT

FILES = {
    "README.md": b"# model\n",
    "mmproj-model-F16.gguf": b"vision" * 10,
    "model.imatrix.gguf": b"matrix" * 10,
    "model-BF16.gguf": b"b" * 5000,
    "model-Q8_0.gguf": b"q8" * 2000,
    "model-Q4_K_M.gguf": b"q4km" * 800,
    "model-Q4_K_S.gguf": b"q4ks" * 700,
    "UD/model-UD-Q4_K_XL.gguf": b"xl" * 1500,
    "Q6_K/model-Q6_K-00001-of-00002.gguf": b"6a" * 1000,
    "Q6_K/model-Q6_K-00002-of-00002.gguf": b"6b" * 900,
    "base.qpc/meta.json": b"{}",
    "base.qpc/00-wiki.rows": b"rows" * 100,
}


class Shown:
    """Progress that adds up what each stage was told."""

    def __init__(self) -> None:
        self.stages: dict[str, int] = {}

    def plan(self, n_jobs: int, n_tokens: int) -> None: ...
    def start(self, label: str, total: int | None, unit: str) -> None:
        assert unit == "B"
        self._label = label
        self.stages[label] = 0

    def advance(self, n: int = 1) -> None:
        self.stages[self._label] += n

    def finish(self) -> None: ...
    def note(self, message: str) -> None: ...


@pytest.fixture
def repo(hub: Hub) -> Hub:
    hub.repository("me/model", FILES)
    return hub


def get(text: str) -> Path:
    plan = plan_fetching([choose_one(list_files(parse_address(text)))])
    return fetch_all(plan, SILENT)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://me/model", HubAddress("me/model")),
        ("hf:/me/model", HubAddress("me/model")),
        ("hf://me/model:Q4_K_M", HubAddress("me/model", tag="Q4_K_M")),
        ("hf://me/model@v1.0/a/b.gguf", HubAddress("me/model", revision="v1.0", path="a/b.gguf")),
        ("hf://me/model@refs/pr/3/b.gguf", HubAddress("me/model", revision="refs/pr/3", path="b.gguf")),
        ("hf://me/model@a%2Fb:Q8_0", HubAddress("me/model", revision="a/b", tag="Q8_0")),
        ("hf://datasets/me/texts/wiki.txt", HubAddress("me/texts", True, path="wiki.txt")),
        ("hf://me/model/base.qpc/", HubAddress("me/model", path="base.qpc")),
    ],
)
def test_addresses_are_read(text: str, expected: HubAddress) -> None:
    assert is_address(text)
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://me",
        "hf://me/",
        "hf://me/model/../x",
        "hf://me/model@/x",
        "hf://a--b/c",
        "hf://me/m:",
        "hf://.x/y",
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"hub|inside the repository"):
        parse_address(text)


def test_paths_are_no_addresses() -> None:
    assert not any(map(is_address, ("model.gguf", "hf/me/model", "/hf:/x", "C:\\hf\\x", "https://hf.co/a/b")))


def test_a_file_is_fetched_and_its_source_is_known(repo: Hub) -> None:
    path = get("hf://me/model/UD/model-UD-Q4_K_XL.gguf")
    assert path.read_bytes() == FILES["UD/model-UD-Q4_K_XL.gguf"]
    commit = repo.repositories["me/model"].head
    assert hub_source(path) == f"hf://me/model@{commit}/UD/model-UD-Q4_K_XL.gguf"


def test_other_paths_have_no_source(tmp_path: Path) -> None:
    assert hub_source(tmp_path / "models--a--b" / "snapshots" / "main" / "x.gguf") == ""
    assert hub_source(Path("x.gguf")) == ""


@pytest.mark.parametrize(
    ("tag", "name"),
    [("q4_k_m", "model-Q4_K_M.gguf"), ("BF16", "model-BF16.gguf"), ("UD-Q4_K_XL", "UD/model-UD-Q4_K_XL.gguf")],
)
def test_a_tag_names_one_quant(repo: Hub, tag: str, name: str) -> None:
    assert choose_one(list_files(parse_address(f"hf://me/model:{tag}"))).path == name


def test_a_tag_that_fits_none_or_several_is_refused(repo: Hub) -> None:
    with pytest.raises(InputError, match="the repository has model-BF16, "):
        choose_one(list_files(parse_address("hf://me/model:IQ1_S")))
    with pytest.raises(InputError, match="one of 6 models"):
        choose_one(list_files(parse_address("hf://me/model:model")))


def test_all_parts_of_a_split_model_come(repo: Hub) -> None:
    path = get("hf://me/model:Q6_K")
    assert path.name == "model-Q6_K-00001-of-00002.gguf"
    assert path.with_name("model-Q6_K-00002-of-00002.gguf").read_bytes() == b"6b" * 900


def test_a_repository_without_a_part_is_told(repo: Hub) -> None:
    repo.repository("me/torn", {"m-Q6_K-00001-of-00002.gguf": b"x"})
    with pytest.raises(InputError, match=r"lacks m-Q6_K-00002-of-00002\.gguf"):
        get("hf://me/torn:Q6_K")


def test_a_repository_is_the_list_of_its_models(repo: Hub) -> None:
    models = choose_models(list_files(parse_address("hf://me/model")))
    assert [model.name for model in models] == [
        "model-BF16", "model-Q8_0", "model-Q6_K", "model-Q4_K_M", "model-UD-Q4_K_XL", "model-Q4_K_S"
    ]  # fmt: skip
    assert models[2].size == 3800


def test_a_folder_comes_whole(repo: Hub) -> None:
    folder = get("hf://me/model/base.qpc")
    assert sorted(path.name for path in folder.iterdir()) == ["00-wiki.rows", "meta.json"]


def test_a_data_set_is_read(hub: Hub) -> None:
    hub.repository("datasets/me/texts", {"wiki.txt": b"text"})
    path = get("hf://datasets/me/texts/wiki.txt")
    assert path.read_bytes() == b"text"
    assert hub_source(path).startswith("hf://datasets/me/texts@")


def test_a_second_fetch_takes_the_cache(repo: Hub) -> None:
    get("hf://me/model:Q8_0")
    before = len(repo.ranges())
    plan = plan_fetching([choose_one(list_files(parse_address("hf://me/model:Q8_0")))])
    assert plan.needed_bytes == 0
    assert "already" in plan.sentence()
    fetch_all(plan, SILENT)
    assert len(repo.ranges()) == before


def test_a_new_commit_does_not_fetch_the_same_bytes_again(repo: Hub) -> None:
    get("hf://me/model:Q8_0")
    repo.repositories["me/model"].commit({"README.md": b"new"})
    assert plan_fetching([choose_one(list_files(parse_address("hf://me/model:Q8_0")))]).needed_bytes == 0


def test_space_is_checked_before(repo: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=(1 << 30) + 3999))
    plan = plan_fetching([choose_one(list_files(parse_address("hf://me/model:Q8_0")))])
    assert plan.needed_bytes == 4000
    assert "1 file, 0.00 GB" in plan.sentence()
    with pytest.raises(InputError, match=r"are to be fetched into .* free"):
        require_space(plan)
    assert repo.ranges() == []


def test_a_connection_cut_five_times_resumes(repo: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 125)  # 10 MiB: what is kept when it is cut
    repo.cuts = 5
    assert get("hf://me/model:Q8_0").read_bytes() == FILES["model-Q8_0.gguf"]
    assert repo.cuts == 0
    assert repo.ranges() == ["", "bytes=2000-", "bytes=3000-", "bytes=3500-", "bytes=3750-", "bytes=3875-"]


def test_a_connection_that_is_reset_is_tried_again(repo: Hub) -> None:
    repo.resets = 4
    shown = Shown()
    plan = plan_fetching([choose_one(list_files(parse_address("hf://me/model:Q8_0")))])
    assert fetch_all(plan, shown)[0].read_bytes() == FILES["model-Q8_0.gguf"]
    assert repo.resets == 0
    assert shown.stages == {"fetch model-Q8_0.gguf": 4000, "verify model-Q8_0.gguf": 4000}
    repo.resets = 5
    with pytest.raises(InputError, match="cannot be reached"):
        get("hf://me/model:Q4_K_M")


def test_bytes_that_come_by_xet_are_counted_once() -> None:
    """The real hub sends large files by another protocol, which no server here speaks; its reporter is the real one."""
    reporting = pytest.importorskip(
        "huggingface_hub.utils._xet_progress_reporting", reason="this huggingface_hub reports otherwise"
    )
    told: list[int] = []
    bars = reporting.XetDownloadProgressReporter(
        reconstruction_desc="", total=100, log_level=30, name="test", tqdm_class=_bar_class(told.append)
    )
    with bars as reporter:
        for done in (10, 40, 100):
            report = SimpleNamespace(
                total_bytes=100,
                total_bytes_completed=done,
                total_bytes_completion_rate=1.0,
                total_transfer_bytes_completed=done // 2,
                total_transfer_bytes_completion_rate=1.0,
            )
            reporter.update_progress(report)
    assert told == [10, 30, 60]


def test_other_bytes_than_listed_are_refused_and_deleted(repo: Hub) -> None:
    repo.damage = True
    with pytest.raises(FileFormatError, match="the copy was deleted"):
        get("hf://me/model:Q8_0")
    with pytest.raises(FileFormatError, match="the copy was deleted"):
        get("hf://me/model/README.md")
    repo.damage = False
    assert get("hf://me/model:Q8_0").read_bytes() == FILES["model-Q8_0.gguf"]


def test_a_lent_model_is_deleted_unless_it_was_there(repo: Hub, tmp_path: Path) -> None:
    choice = choose_one(list_files(parse_address("hf://me/model:Q6_K")))
    supply = HubSupply(tmp_path / "base.gguf", RunFolder(tmp_path / "run"), [choice], SILENT)
    with supply.lend(choice) as path:
        content = [part.resolve() for part in path.parent.iterdir()]
        assert len(content) == 2
    assert not path.exists()
    assert not any(part.exists() for part in content)
    kept = get("hf://me/model:Q6_K")
    with supply.lend(choice):
        pass
    assert kept.exists()


def test_a_lent_model_stays_if_the_work_fails_and_goes_when_it_is_done(repo: Hub, tmp_path: Path) -> None:
    choice = choose_one(list_files(parse_address("hf://me/model:Q8_0")))
    supply = HubSupply(tmp_path / "base.gguf", RunFolder(tmp_path / "run"), [choice], SILENT)
    with pytest.raises(RuntimeError), supply.lend(choice) as path:
        raise RuntimeError
    assert path.exists()
    n_before = len(repo.ranges())
    with supply.lend(choice) as again:
        assert again == path
    assert len(repo.ranges()) == n_before
    assert not path.exists()


def test_offline_takes_what_the_cache_has(repo: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    get("hf://me/model:Q8_0")
    n_before = len(repo.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert get("hf://me/model:Q8_0").read_bytes() == FILES["model-Q8_0.gguf"]
    assert len(repo.requests) == n_before
    with pytest.raises(InputError, match="no model has Q4_K_M"):
        get("hf://me/model:Q4_K_M")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE forbids"):
        get("hf://me/other:Q4_K_M")


def test_what_the_hub_refuses_is_told(repo: Hub) -> None:
    with pytest.raises(InputError, match="knows no repository hf://me/none"):
        get("hf://me/none:Q8_0")
    with pytest.raises(InputError, match="no branch, tag or commit 'v9'"):
        get("hf://me/model@v9:Q8_0")
    with pytest.raises(InputError, match=r"has no model-IQ1\.gguf; it has Q6_K/.*README\.md"):
        get("hf://me/model/model-IQ1.gguf")
    repo.repositories["me/model"].gated = True
    with pytest.raises(InputError, match="is gated: accept its terms"):
        get("hf://me/model:Q8_0")


def test_a_hub_that_is_not_there_is_told(repo: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="cannot be reached"):
        get("hf://me/model:Q8_0")


def test_without_the_library_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'pip install "gguf-quantprobe\[hub\]"'):
        list_files(HubAddress("me/model"))


def test_a_real_model_keeps_its_name_and_source(hub: Hub, tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny-F16.gguf")
    hub.repository("me/tiny", {"tiny-F16.gguf": (tmp_path / "tiny-F16.gguf").read_bytes()})
    identity = read_model_info(get("hf://me/tiny:F16")).identity()
    assert Path(identity.path).name == "tiny-F16.gguf"
    assert identity.source == f"hf://me/tiny@{hub.repositories['me/tiny'].head}/tiny-F16.gguf"
