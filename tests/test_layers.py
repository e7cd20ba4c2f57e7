"""Imports point down only. Read from the source, imports inside functions too; imports for type checkers alone are free."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "jensen"
LAYERS = (
    ("errors",),
    ("noise", "files", "rules", "settings", "threads", "blocks", "memory"),
    ("likelihood",),
    ("distributions",),
    ("nn",),
    ("data",),
    ("importance",),
    ("bounds",),
    ("diffusion", "mixture", "laws", "flow", "graphical", "kernel_density"),
    ("naive_bayes", "hmm"),
    ("training",),
    ("estimation", "vae"),
    ("models",),
    ("config",),
    ("resolving", "loading"),
    ("fitting",),
    ("evaluation",),
    ("cli", "sklearn"),
    ("__main__",),
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
INSIDE_MODELS = {
    "model": 0,
    "networks": 0,
    "context": 0,
    "chain": 1,
    "mixture_objective": 1,
    "diffusion_objective": 1,
    "diffusion_parts": 1,
    "dequantised": 1,
    "scored_by_draws": 1,
    "latents": 2,
    "scheduled": 2,
}  # contracts and shared parts; families and the pipeline are 3
FILES = sorted(ROOT.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """The names under jensen that a file imports, `data.examples` and the like."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("jensen.") for alias in node.names if alias.name.startswith("jensen."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "jensen":
                yield from (alias.name for alias in node.names if alias.name != "__version__")
            elif (node.module or "").startswith("jensen."):
                name = str(node.module).removeprefix("jensen.")
                yield from (
                    f"{name}.{a.name}" if (ROOT / name.replace(".", "/") / f"{a.name}.py").exists() else name
                    for a in node.names
                )


def others(path: Path) -> set[str]:
    return {
        (node.module or "").partition(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path: Path):
    own, *_ = module_of(path).split(".")
    if own == "__init__":
        assert not list(imports(path)), "jensen/__init__.py loads its names lazily"
        return
    assert own in HEIGHT, f"{own} has no layer yet: give it one in DESIGN.md and here"
    for name in imports(path):
        other = name.partition(".")[0]
        assert other == own or HEIGHT[other] < HEIGHT[own], f"{module_of(path)} imports {name}, which is not below it"


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.py")), ids=module_of)
def test_families_know_the_contract_and_not_each_other(path: Path):
    own = path.stem
    for name in imports(path):
        if name.startswith("models."):
            other = name.split(".")[1]
            assert INSIDE_MODELS.get(other, 3) < INSIDE_MODELS.get(own, 3), f"models.{own} imports models.{other}"


def test_only_the_device_module_knows_accelerate():
    assert [module_of(path) for path in FILES if "accelerate" in others(path)] == ["training.device"]


def test_nothing_needs_pickle():
    for path in FILES:
        assert not others(path) & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}, path
        assert "torch.load(" not in path.read_text(), path
