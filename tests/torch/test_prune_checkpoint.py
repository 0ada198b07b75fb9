"""What is pruned on disk is what `fold` gives in memory, bit by bit; what does not fit is told."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fxprune
from fxprune.testing import OPS, assert_same_state, keep_sets, networks
from fxprune.torch import shards as shards_module
from fxprune.torch.shards import INDEX, WEIGHTS
from tests.torch.models import Residual, half, images, randomise
from tests.torch.test_language_models import llama, tokens
from tests.torch.test_uniform import DECODERS, QUICK, decoder, logits

SHARES = {"params": 0.6}


def tied() -> Any:
    config = transformers.AutoConfig.for_model("llama", **DECODERS["llama"])
    config.tie_word_embeddings = True
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def t5() -> Any:
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(vocab_size=50, decoder_start_token_id=0, **sizes)
    return transformers.T5ForConditionalGeneration(config).eval()


def saved(model: Any, folder: Path, shard: str = "6KB") -> Path:
    """A folder as transformers writes it, with experts stacked as models have them."""
    model.save_pretrained(folder, max_shard_size=shard, save_original_format=False)
    return folder


def in_memory(folder: Path, model: Any, **options: Any) -> Any:
    """What the route through memory gives of the same folder."""
    dense = type(model).from_pretrained(folder)
    return fxprune.prune(dense, dense.dummy_inputs, uniform=True, **options).eval()


def assert_same(expected: nn.Module, got: nn.Module) -> None:
    assert_same_state(expected.state_dict(), got.state_dict())
    types = [{n: t.dtype for n, t in each.state_dict().items()} for each in (expected, got)]
    assert types[0] == types[1]


def check_equal(model: Any, folder: Path, shard: str = "6KB", **options: Any) -> Any:
    """Both routes give one model, which its class makes of what is written."""
    dense, out = saved(model, folder / "dense", shard), folder / "out"
    before = {file: file.read_bytes() for file in dense.iterdir()}
    assert fxprune.prune_checkpoint(dense, out, **options) == out
    assert {file: file.read_bytes() for file in dense.iterdir()} == before
    expected, got = in_memory(dense, model, **options), type(model).from_pretrained(out).eval()
    assert_same(expected, got)
    assert got.config.to_dict() == {**expected.config.to_dict(), "_name_or_path": str(out)}
    with torch.no_grad():
        example = model.dummy_inputs
        assert torch.equal(expected(**example).logits, got(**example).logits)
    return got


OF_OTHER_FILES = ("deepseek_v3", "falcon", "gemma2", "opt", "phi3")
"""Decoders whose weights are named, joined or stacked in other ways than those of a Llama."""


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OF_OTHER_FILES)]
)
def test_a_decoder_pruned_on_disk_is_that_pruned_in_memory(name, tmp_path):
    model = decoder(name)
    got = check_equal(model, tmp_path, target=SHARES)
    assert sum(p.numel() for p in got.parameters()) < 0.65 * sum(
        p.numel() for p in model.parameters()
    )


@pytest.mark.parametrize("make", [tied, pytest.param(t5, marks=pytest.mark.slow)])
def test_matrices_that_are_shared_are_cut_once(make, tmp_path):
    torch.manual_seed(0)
    check_equal(make(), tmp_path, target=SHARES)


def test_experts_that_are_stored_one_by_one_are_refused_with_what_to_do(tmp_path):
    decoder("mixtral").save_pretrained(tmp_path / "dense")
    with pytest.raises(fxprune.CheckpointError, match="save_original_format=False"):
        fxprune.prune_checkpoint(tmp_path / "dense", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_norm_in_half_precision_and_one_file(tmp_path):
    model = decoder("llama").bfloat16()
    check_equal(model, tmp_path, "1GB", target=SHARES, method="magnitude")
    assert (tmp_path / "out" / WEIGHTS).is_file()


def test_pieces_of_any_size_give_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "_PIECE", 40)
    check_equal(decoder("llama"), tmp_path, target=SHARES)


def test_the_same_files_hold_what_is_left_and_what_goes_with_them_is_copied(tmp_path):
    dense = saved(decoder("llama"), tmp_path / "dense")
    for name in ("tokenizer.json", "LICENSE", "README.md", "pytorch_model.bin", "training.pt"):
        (dense / name).write_text("{}")
    (dense / "original").mkdir()
    out = fxprune.prune_checkpoint(dense, tmp_path / "out", target=SHARES)
    left = {"README.md", "pytorch_model.bin", "training.pt", "original"}
    names = {file.name for file in dense.iterdir()} - left | {"fxprune.json"}
    assert {file.name for file in out.iterdir()} == names
    index, before = (json.loads((each / INDEX).read_text()) for each in (out, dense))
    assert index["weight_map"] == before["weight_map"]
    state = {k: v for file in out.glob("*.safetensors") for k, v in load_file(file).items()}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in state.values())


# Modules of one's own -------------------------------------------------------------------------


def write(state: Mapping[str, Tensor], folder: Path, files: int = 1) -> Path:
    """A folder without a configuration, its tensors dealt out to files."""
    folder.mkdir()
    if files == 1:
        save_file(dict(state), folder / WEIGHTS)
        return folder
    placed = {name: f"part{number % files}.safetensors" for number, name in enumerate(state)}
    for file in set(placed.values()):
        save_file({n: state[n] for n, f in placed.items() if f == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": placed}))
    return folder


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("made", [Residual, lambda: Residual(), Residual()])
def test_a_module_of_ones_own_is_pruned_and_loaded(files, made, tmp_path):
    model = randomise(Residual())
    dense = write(model.state_dict(), tmp_path / "dense", files)
    options = {"example_inputs": images(1), "target": 0.5}
    out = fxprune.prune_checkpoint(dense, tmp_path / "out", model=made, **options)
    expected = fxprune.prune(model, images(1), target=0.5, uniform=True)
    got = fxprune.load(out, Residual())
    assert_same(expected, got)
    assert torch.equal(expected.eval()(images(2)), got.eval()(images(2)))
    with torch.device("meta"):
        empty = Residual()
    assert_same(expected, fxprune.load(out, empty))


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_folds_on_disk_are_folds(data, tmp_path_factory):
    network = data.draw(networks([name for name in OPS[2] if name != "dropout"], max_nodes=4))
    gated = fxprune.prepare(network, network.inputs, target=1.0)
    keep = data.draw(keep_sets(gated), "keep-set")
    fxprune.set_keep_set(gated, keep)
    folder = tmp_path_factory.mktemp("network")
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    dense = write(state, folder / "dense", data.draw(st.integers(1, 3), "files"))
    options: dict[str, Any] = {"keep_set": keep, "uniform": False}
    out = fxprune.prune_checkpoint(
        dense, folder / "out", model=network, example_inputs=network.inputs, **options
    )
    expected, got = fxprune.fold(gated).eval(), fxprune.load(out, network).eval()
    assert_same(expected, got)
    with torch.no_grad():
        pairs = zip(got(*network.inputs), expected(*network.inputs), strict=True)
        assert all(torch.equal(left, right) for left, right in pairs)


class Twins(nn.Module):
    """Two branches with one matrix, of which one may go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight, self.last = self.one.weight, nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.one(x.relu())
        return self.last(x + self.two(x.sigmoid()))


@pytest.mark.parametrize("stored", ["one.weight", "two.weight", "both"])
@pytest.mark.parametrize("gone", [0, 1])
def test_a_matrix_that_lost_one_of_its_readers_stays_under_the_name_of_the_other(
    stored, gone, tmp_path
):
    torch.manual_seed(0)
    model, x = Twins(), torch.randn(2, 6)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if stored != "both":
        del state["one.weight" if stored == "two.weight" else "two.weight"]
    gated = fxprune.prepare(model, x, target=1.0)
    branches = [group.name for group in fxprune.groups(gated) if group.kind == "branch"]
    keep = {branches[gone]: [False]}
    fxprune.set_keep_set(gated, keep)
    dense = write(state, tmp_path / "dense")
    options: dict[str, Any] = {"model": Twins, "example_inputs": x, "uniform": False}
    out = fxprune.prune_checkpoint(dense, tmp_path / "out", keep_set=keep, **options)
    assert_same(fxprune.fold(gated), fxprune.load(out, Twins()))


@pytest.mark.parametrize("shard", ["6KB", pytest.param("1GB", marks=pytest.mark.slow)])
def test_layers_behind_one_that_is_gone_move_up(shard, tmp_path):
    config = transformers.AutoConfig.for_model("llama", **DECODERS["llama"])
    config.num_hidden_layers = 4
    model = transformers.AutoModelForCausalLM.from_config(config)
    dense = saved(model, tmp_path / "dense", shard)
    gated = fxprune.prepare(model.eval(), model.dummy_inputs, target=1.0)
    keep = {name: [False] for name in ("model.layers.1+", "model.layers.1++")}
    fxprune.set_keep_set(gated, keep)
    out = fxprune.prune_checkpoint(dense, tmp_path / "out", keep_set=keep, uniform=False)
    expected, got = fxprune.fold(gated), type(model).from_pretrained(out)
    assert len(got.model.layers) == got.config.num_hidden_layers == 3
    assert_same(expected, got)
    assert_same(expected, fxprune.load(out, model))


@pytest.mark.slow
def test_whole_layers_and_widths_go_together(tmp_path):
    config = transformers.AutoConfig.for_model("llama", **DECODERS["llama"])
    config.num_hidden_layers = 3
    model = transformers.AutoModelForCausalLM.from_config(config)
    dense = saved(model, tmp_path / "dense", "6KB")
    gated = fxprune.prepare(model.eval(), model.dummy_inputs, target=1.0, uniform=True)
    keep = {g.name: [True, False] * 12 for g in fxprune.groups(gated) if g.kind == "MLP width"}
    keep["model.layers.1"] = [False]
    fxprune.set_keep_set(gated, keep)
    out = fxprune.prune_checkpoint(dense, tmp_path / "out", keep_set=keep)
    got = type(model).from_pretrained(out)
    assert (got.config.num_hidden_layers, got.config.intermediate_size) == (2, 12)
    assert_same(fxprune.fold(gated), got)
    assert_same(got, fxprune.load(out, model))


# Sizes that no configuration says -------------------------------------------------------------


def test_a_keep_set_that_no_configuration_says_is_written_for_load_if_asked_for(tmp_path, caplog):
    model = llama()
    dense = saved(model, tmp_path / "dense")
    gated = fxprune.prepare(model, model.dummy_inputs, target=1.0)
    keep = half(gated, branches=1.0)
    options: dict[str, Any] = {"keep_set": keep, "uniform": False}
    with caplog.at_level(logging.WARNING, "fxprune"):
        out = fxprune.prune_checkpoint(dense, tmp_path / "out", **options)
    assert "no configuration of a LlamaForCausalLM says these sizes" in caplog.text
    assert not (out / "config.json").exists()
    fxprune.set_keep_set(gated, keep)
    assert_same(fxprune.fold(gated), fxprune.load(out, llama()))


def test_sizes_that_a_configuration_refuses_are_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    dense = saved(llama(), tmp_path / "dense")
    place = "fxprune.torch.prune_checkpoint.why_not_from_configuration"
    monkeypatch.setattr(place, lambda model: "it takes no 13")
    said = r"no configuration of a LlamaForCausalLM says these sizes: it takes no 13\. Give"
    with pytest.raises(fxprune.InputError, match=said):
        fxprune.prune_checkpoint(dense, tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dense"]


# What is refused ------------------------------------------------------------------------------


@pytest.fixture
def dense(tmp_path) -> Path:
    torch.manual_seed(0)
    return saved(llama(), tmp_path / "dense")


def index_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / INDEX).read_text())
    return found


def file_of(folder: Path, name: str) -> Path:
    return folder / index_of(folder)["weight_map"][name]


NAME = "model.layers.1.mlp.down_proj.weight"


def changed(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """Write the file of a matrix anew."""

    def write_anew(folder: Path) -> None:
        file = file_of(folder, NAME)
        state = load_file(file)
        change(state)
        save_file(state, file, {"format": "pt"})

    return write_anew


def without_name(folder: Path) -> None:
    changed(lambda state: state.pop(NAME))(folder)
    index = index_of(folder)
    del index["weight_map"][NAME]
    (folder / INDEX).write_text(json.dumps(index))


def placed(file: Any) -> Callable[[Path], None]:
    def place(folder: Path) -> None:
        index = index_of(folder)
        index["weight_map"][NAME] = file
        (folder / INDEX).write_text(json.dumps(index))

    return place


def configured(**changes: Any) -> Callable[[Path], None]:
    def configure(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return configure


def truncated(folder: Path) -> None:
    file = file_of(folder, NAME)
    file.write_bytes(file.read_bytes()[:-20])


def only_bin(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (without_name, rf"dense has no tensor '{NAME}', which the LlamaForCausalLM has"),
    "not where the index says": (changed(lambda s: s.pop(NAME)), f"says that {NAME} is in .*it is"),
    "of another shape": (
        changed(lambda s: s.update({NAME: torch.zeros(16, 23)})),
        rf"{NAME} has the shape \(16, 23\) in .*, and \(16, 24\) in the LlamaForCausalLM",
    ),
    "not finite": (changed(lambda s: s[NAME].view(-1)[3:4].fill_(torch.nan)), f"{NAME} holds NaN"),
    "truncated": (truncated, "is damaged or not a safetensors file"),
    "no file": (lambda folder: file_of(folder, NAME).unlink(), "there is no file .*model-0000"),
    "outside": (placed("../model.safetensors"), f"names no file of this folder for {NAME}"),
    "no name": (placed(3), f"names no file of this folder for {NAME}: 3"),
    "index": (lambda folder: (folder / INDEX).write_text("{"), "index.json is not JSON"),
    "empty index": (lambda folder: (folder / INDEX).write_text("[]"), 'has no "weight_map"'),
    "other formats": (only_bin, "there are no weights in .*save_pretrained"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "give model="),
    "configuration": (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "holds no configuration"),
    "unknown class": (configured(architectures=["Nothing"]), "makes no Nothing of .*give model="),
    "no class": (configured(architectures=None), "makes no without a name of .*give model="),
    "quantised": (configured(quantization_config={}), "are quantised"),
    "other sizes": (configured(intermediate_size=25), r"has the shape .*they are not of one model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_does_not_hold_the_model_is_refused(fault, dense, tmp_path):
    spoil, said = FAULTS[fault]
    spoil(dense)
    with pytest.raises((fxprune.CheckpointError, fxprune.InputError), match=said):
        fxprune.prune_checkpoint(dense, tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dense"]


def test_tensors_that_the_model_does_not_have_are_left_out_with_a_warning(dense, tmp_path, caplog):
    def add(folder: Path) -> None:
        changed(lambda state: state.update({"old.inv_freq": torch.ones(2)}))(folder)
        index = index_of(folder)
        index["weight_map"]["old.inv_freq"] = index["weight_map"][NAME]
        (folder / INDEX).write_text(json.dumps(index))

    add(dense)
    with caplog.at_level(logging.WARNING, "fxprune"):
        out = fxprune.prune_checkpoint(dense, tmp_path / "out")
    assert "1 tensors of" in caplog.text and "old.inv_freq" in caplog.text
    assert "old.inv_freq" not in index_of(out)["weight_map"]


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_nothing_is_written_over(there, dense, tmp_path):
    out = tmp_path / "out"
    if there == "link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.write_text("old") if there == "file" else out.mkdir()
    with pytest.raises(fxprune.InputError, match="it is there already"):
        fxprune.prune_checkpoint(dense, out)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dense", "out"]


def test_what_appears_meanwhile_stays(dense, tmp_path, monkeypatch):
    out = tmp_path / "out"
    copy = shutil.copyfile

    def appears(*args: Any) -> Any:
        out.write_text("new")
        return copy(*args)

    monkeypatch.setattr(shutil, "copyfile", appears)
    with pytest.raises(fxprune.InputError, match="it is there already"):
        fxprune.prune_checkpoint(dense, out)
    assert out.read_text() == "new"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dense", "out"]


def test_load_finds_damage_in_shards(dense, tmp_path):
    out = fxprune.prune_checkpoint(dense, tmp_path / "out", target=SHARES, round_to=4)
    assert logits(fxprune.load(out, llama()), tokens()).shape == (2, 7, 50)
    truncated(out)
    with pytest.raises(fxprune.CheckpointError, match="is damaged"):
        fxprune.load(out, llama())
