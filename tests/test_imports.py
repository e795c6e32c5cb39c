"""Which room may import which, read from the source; and what an import loads, seen in a process of its own."""

import ast
import subprocess
import sys
import tomllib

import pytest
from support import ROOT

import pgtorch

PACKAGE = ROOT / "pgtorch"
FLOORS = [  # from the ground
    *(
        "environment",
        "core",
        "lesson",
        "record",
        "proof",
        "scale.peers",
        "scale.shards",
        "exercises run",
        "scale",
        "commands",
    ),
    "__main__",
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
ROOMS = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
WRITERS = {"record", "proof", "run", "scale", "commands", "__init__"}  # what may import record


def room_of(module):
    """The room of "pgtorch.record.metrics"; the core's modules are a room together."""
    if ".".join(module.split(".")[1:]) in FLOOR:
        return module.partition(".")[2]
    name = [*module.split("."), "__init__"][1]
    return name if name in FLOOR or name == "__init__" else "core"


def imports_of(source, module):
    """Every module that a source imports, at its head or inside a function; not what only a type checker reads."""
    for node in ast.walk(without_type_checking(ast.parse(source))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                yield home_of(node.module, alias.name)


def home_of(module, name):
    """What `from module import name` loads: a module of that name, a public name's own module, or `module`."""
    if (ROOT / module.replace(".", "/") / f"{name}.py").exists() or (PACKAGE / name / "__init__.py").exists():
        return f"{module}.{name}"
    return f"pgtorch.{pgtorch._MODULE_OF[name]}" if module == "pgtorch" and name in pgtorch._MODULE_OF else module


def without_type_checking(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return tree


def broken_rules(module, source):
    """What a module's imports break, in words."""
    room = room_of(module)
    for imported in imports_of(source, module):
        top, to = imported.split(".")[0], room_of(imported)
        if top == "restaurant_env" and room != "lesson":
            yield f"{module} imports restaurant_env, which only lesson may"
        if top != "pgtorch" or to == room:
            continue
        if to == "scale" and room != "commands":
            yield f"{module} imports {imported}: only commands may import scale"
        if to == "record" and room not in WRITERS:
            yield f"{module} imports {imported}: only {sorted(WRITERS)} may import record"
        if "__init__" not in (room, to) and FLOOR[to] >= FLOOR[room]:
            yield f"{module} imports {imported}: an arrow up, from {room} to {to}"


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def test_arrows_run_down_only():
    assert [rule for module, path in MODULES.items() for rule in broken_rules(module, path.read_text())] == []


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("pgtorch.trainer", "from pgtorch.record import metrics"),
        ("pgtorch.trainer", "def f():\n    import pgtorch.record.metrics"),
        ("pgtorch.losses", "from pgtorch import evaluate"),
        ("pgtorch.policies", "from pgtorch.lesson.model import RestaurantModel"),
        ("pgtorch.returns", "from pgtorch.run import train"),
        ("pgtorch.environment.build", "from pgtorch.config import TrainConfig"),
        ("pgtorch.environment.build", "from pgtorch import config"),
        ("pgtorch.record.metrics", "from pgtorch.proof.table import Row"),
        ("pgtorch.lesson.story", "from pgtorch.record.folder import RUNS"),
        ("pgtorch.proof.suite", "from pgtorch.run import train"),
        ("pgtorch.lesson.story", "from pgtorch.commands import command_line"),
        ("pgtorch.proof.suite", "import restaurant_env"),
        ("pgtorch.scale.sweep", "import restaurant_env"),
        ("pgtorch.run", "from pgtorch.scale.sweep import sweep"),
        ("pgtorch.__main__", "from pgtorch.scale.sweep import sweep"),
        ("pgtorch.commands.train", "from restaurant_env import Restaurant"),
        ("pgtorch.run", "from pgtorch.__main__ import main"),
    ],
)
def test_a_planted_arrow_up_is_found(module, planted):
    assert len(list(broken_rules(module, MODULES[module].read_text() + "\n" + planted))) >= 1


def test_each_room_says_what_it_is_for():
    assert sorted(set(FLOOR) - {"core", "run", "scale.peers", "scale.shards", "__main__"}) == sorted(ROOMS)
    for room in ROOMS:
        docstring = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
        assert "import" in docstring, f"{room}/__init__.py must say what the room is for and who may import it"


def test_every_room_is_packaged():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(["pgtorch", *(f"pgtorch.{room}" for room in ROOMS), "restaurant_env"])


def test_one_update_is_read_in_three_files_of_360_lines():
    files = [PACKAGE / f"{name}.py" for name in ("trainer", "policies", "losses")]
    assert sum(len(path.read_text().splitlines()) for path in files) <= 360


def loaded_by(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    return set(done.stdout.split())


def test_the_package_alone_loads_nothing_heavy():
    assert loaded_by("import pgtorch") & {"torch", "gymnasium", "numpy", "tyro"} == set()


def test_a_trainer_loads_nothing_that_writes_or_proves():
    heavy = {"tensorboard", "matplotlib", "tyro", "restaurant_env", "torch._dynamo"}
    rooms = {f"pgtorch.{room}" for room in ("record", "proof", "lesson", "run", "commands")}
    assert loaded_by("import pgtorch.trainer") & (heavy | rooms) == set()


def test_every_public_name_is_there():
    for name in pgtorch.__all__:
        assert getattr(pgtorch, name) is not None
        assert name in dir(pgtorch)
    assert callable(pgtorch.manual_gradient)  # not the module of this name
    with pytest.raises(AttributeError, match="has no attribute 'spice'"):
        pgtorch.spice  # noqa: B018


def test_type_checkers_see_the_public_names():
    (block,) = (node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If))
    lines = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {f"{line.module}.{alias.name}" for line in lines for alias in line.names}
    assert seen == {
        *(f"pgtorch.{module}.{name}" for name, module in pgtorch._MODULE_OF.items()),
        *(f"pgtorch.{room}" for room in pgtorch._ROOMS),
    }


def test_a_function_stays_when_its_module_is_imported():
    code = "import pgtorch.manual_gradient, pgtorch; pgtorch.manual_gradient.__code__"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
