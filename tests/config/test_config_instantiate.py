"""Building: required arguments, late parts, references, errors with their place in the config."""

from __future__ import annotations

import dataclasses
import threading
import traceback
from typing import TYPE_CHECKING, Annotated, Any, Generic, Optional, TypeVar

import pytest

from lazyengine.config import (
    REQUIRED,
    Config,
    ConfigError,
    Lazy,
    LazyCall,
    LazyPartial,
    MissingArgumentError,
    RefError,
    TargetError,
    UnknownNameError,
    arguments_of,
    instantiate,
    ref,
)
from lazyengine.errors import UsageError

if TYPE_CHECKING:
    from nowhere import Unknown

T = TypeVar("T")


class Model:
    def __init__(self, width=1):
        if width < 0:
            raise ZeroDivisionError(f"width {width}")
        self.width = width


class Optimizer:
    def __init__(self, model, lr=0.1, params=None):
        self.model, self.lr, self.params = model, lr, params


class Hook:
    def __init__(self, optimizer: Optimizer | Lazy[Optimizer]):
        self.optimizer = optimizer


class Runner(Generic[T]):
    def __init__(
        self,
        model: Model,
        optimizer: Optimizer | Lazy[Optimizer] | None = None,
        hooks: list[Hook | Lazy[Hook]] | None = None,
        loops: Optional["dict[str, Lazy[Model] | Model]"] = None,  # noqa: UP037, UP045
        late_list: Lazy[list[Model]] | list[Model] = (),  # type: ignore[assignment]
        unknown: Unknown.inner[int] | Lazy[Unknown] = None,  # type: ignore[name-defined]
        noted: Annotated[Model | Lazy[Model], "note"] = None,  # type: ignore[assignment]
        eager: Any = None,
    ):
        self.__dict__.update(locals())

    def build(self):
        self.optimizer = self.optimizer()
        return self


class ChildRunner(Runner[int]):
    def __init__(self, extra=0, **kwargs):
        super().__init__(**kwargs)
        self.extra = extra


def config(**values) -> Config:
    return Config(values, "config.py")


def test_required_names_the_path():
    optimizer = LazyCall(Optimizer)(model=REQUIRED, params=REQUIRED)
    for root in (config(runner=LazyCall(Runner)(model=LazyCall(Model)(), eager=[optimizer])), optimizer):
        with pytest.raises(MissingArgumentError) as caught:
            instantiate(root)
        assert "runner.eager[0].model, runner.eager[0].params: required by Optimizer" in str(caught.value)
        assert "test_config_instantiate.py:" in str(caught.value)
    with pytest.raises(MissingArgumentError, match=r"^model: required by Optimizer"):
        instantiate(LazyCall(Optimizer)(lr=1))


def test_arguments_given_to_instantiate_do_not_change_the_node():
    optimizer = LazyCall(Optimizer)(model=REQUIRED, lr=1)
    model = LazyCall(Model)()
    built = instantiate(optimizer, model=[model, model], lr=2)
    assert built.model[0] is built.model[1]
    assert built.lr == 2
    assert arguments_of(optimizer) == {"model": REQUIRED, "lr": 1}
    with pytest.raises(UnknownNameError, match="Did you mean 'model'"):
        instantiate(optimizer, modle=1)
    with pytest.raises(TargetError):
        instantiate([optimizer], model=1)


def test_what_is_no_node_passes_through():
    model = Model()
    assert instantiate(model) is model
    assert instantiate({"a": [1, (LazyCall(Model)(width=3),)]})["a"][1][0].width == 3
    assert instantiate(config(a=1, b=LazyCall(Model)(width=2)))["b"].width == 2


@pytest.mark.parametrize("kind", [Runner, ChildRunner])
def test_late_parts_are_found_everywhere(kind):
    model, optimizer = LazyCall(Model)(width=2), LazyCall(Optimizer)(model=LazyCall(Model)(width=7))
    optimizer.model = model
    runner = instantiate(
        LazyCall(kind)(
            model=model,
            optimizer=optimizer,
            hooks=[LazyCall(Hook)(optimizer=optimizer)],
            loops={"a": model},
            late_list=[model, LazyCall(Model)()],
            unknown=model,
            noted=model,
            eager=model,
        )
    )
    for recipe in (
        runner.optimizer,
        runner.hooks[0],
        runner.loops["a"],
        runner.late_list,
        runner.unknown,
        runner.noted,
    ):
        assert isinstance(recipe, Lazy)
    assert runner.eager is runner.model is runner.loops["a"]() is runner.unknown()
    built = runner.optimizer()
    assert built is runner.optimizer()
    assert built.model is runner.model
    hook = runner.hooks[0]()
    assert hook.optimizer() is built
    assert runner.late_list() is runner.late_list()
    assert runner.late_list()[0] is runner.model


def test_lazy_tells_what_it_will_build():
    cfg = config(optimizer=LazyCall(Optimizer)(model=REQUIRED, lr=3))
    cfg.optimizer.lr = 4
    runner = instantiate(LazyCall(Runner)(model=LazyCall(Model)(), optimizer=cfg.optimizer))
    recipe = runner.optimizer
    assert (recipe.target, dict(recipe.arguments), recipe.path) == (
        Optimizer,
        {"model": REQUIRED, "lr": 4},
        "optimizer",
    )
    with pytest.raises(TypeError):
        recipe.arguments["lr"] = 5
    with pytest.raises(MissingArgumentError, match=r"optimizer\.model"):
        recipe()
    assert recipe(model=1).model == 1  # a failed call may be repeated
    with pytest.raises(ConfigError, match="already built"):
        recipe(model=2)
    assert recipe().model == 1


def test_objects_can_be_given_instead_of_recipes():
    optimizer = Optimizer(None)
    assert instantiate(LazyCall(Hook)(optimizer=optimizer)).optimizer is optimizer
    assert Hook(optimizer).optimizer is optimizer


def test_constructor_error_keeps_type_and_traceback_and_gains_path_and_place():
    cfg = config(runner=LazyCall(Runner)(model=LazyCall(Model)(width=-1)))
    with pytest.raises(ZeroDivisionError, match=r"^width -1\n") as caught:
        instantiate(cfg)
    (note,) = caught.value.__notes__
    assert note.startswith("while building runner.model: ")
    assert note.endswith(tuple("0123456789"))
    assert "Model, defined at " in note
    assert "test_config_instantiate.py:" in note
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [f.name for f in frames] == [
        test_constructor_error_keeps_type_and_traceback_and_gains_path_and_place.__name__,
        "__init__",
    ]


def test_an_error_of_building_has_the_path_as_an_attribute():
    def broken():
        return LazyCall(Model)(width=-1)

    for root, path in (
        (config(runner=LazyCall(Runner)(model=broken())), "runner.model"),
        (config(parts=[1, {"a b": broken()}]), "parts[1]['a b']"),
        (config(late=LazyCall(LateRunner)(optimizer=LazyCall(Optimizer)(model=broken()))), "late.optimizer.model"),
        (config(a=0, b=ref("a", lambda a: 1 / a)), "b"),
        (config(gone=LazyCall("fractions:Fraction")(1, 0)), "gone"),
        (broken(), ""),
    ):
        with pytest.raises(ZeroDivisionError) as caught:
            instantiate(root)
        assert caught.value.config_path == path  # type: ignore[attr-defined]
    with pytest.raises(MissingArgumentError) as missing:
        instantiate(config(a=LazyCall(Optimizer)()))
    assert missing.value.config_path == "a"  # type: ignore[attr-defined]


def test_a_mistake_in_a_config_is_the_users():
    assert issubclass(ConfigError, UsageError)
    with pytest.raises(UsageError):
        LazyCall(Model)(widht=1)


def test_error_in_a_late_build_names_its_own_path():
    cfg = config(runner=LazyCall(LateRunner)(optimizer=LazyCall(Optimizer)(model=LazyCall(Model)(width=-1))))
    with pytest.raises(ZeroDivisionError) as caught:
        instantiate(cfg.runner)
    assert len(caught.value.__notes__) == 1
    assert caught.value.__notes__[0].startswith("while building runner.optimizer.model: ")


class LateRunner:
    def __init__(self, optimizer: Lazy[Optimizer]):
        self.optimizer = optimizer()


def test_a_call_that_python_refuses_has_the_note_too():
    with pytest.raises(TypeError, match="unexpected keyword") as caught:
        instantiate(LazyCall(strict)(b=1))
    assert "while building" in caught.value.__notes__[0]


def strict(**kwargs):
    return only_a(**kwargs)


def only_a(a=1):
    return a


def test_nodes_in_a_circle_are_named():
    inner = LazyCall(Optimizer)()
    outer = LazyCall(Runner)(model=inner)
    inner.model = [outer]
    with pytest.raises(ConfigError, match=r"runner -> runner\.model -> runner"):
        instantiate(config(runner=outer))


def test_recipes_called_from_many_threads_build_once():
    runner = instantiate(
        LazyCall(Runner)(model=LazyCall(Model)(), optimizer=LazyCall(Optimizer)(model=LazyCall(slow)()))
    )
    results: list[Any] = []
    barrier = threading.Barrier(8)

    def call() -> None:
        barrier.wait()
        results.append(runner.optimizer())

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len({id(r) for r in results}) == 1


def slow():
    return sum(range(100_000))


def test_one_config_built_in_many_threads_gives_separate_instances():
    cfg = config(a=LazyCall("fractions:Fraction")(1, 2), b=[LazyCall(Model)()])
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(instantiate(cfg))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(r["b"][0]) for r in results}) == 8


# --------------------------------------------------------------------------------------------- references
def test_ref_follows_edits_and_gives_instances():
    model = LazyCall(Model)(width=2)
    cfg = config(
        model=model,
        half=ref("model.width", lambda width: width / 2),
        optimizer=LazyCall(Optimizer)(model=ref("model"), lr=ref("half"), params=ref("epochs", "model.width", max)),
        epochs=5,
    )
    cfg.model.width = 10
    built = instantiate(cfg)
    assert built["optimizer"].lr == built["half"] == 5.0
    assert built["optimizer"].model is built["model"]
    assert built["optimizer"].params == 10
    assert instantiate(cfg.optimizer).lr == 5.0  # a part of the config knows the whole


def test_ref_to_a_node_can_be_late():
    cfg = config(optimizer=LazyCall(Optimizer)(model=1), hook=LazyCall(Hook)(optimizer=ref("optimizer")))
    recipe = instantiate(cfg.hook).optimizer
    assert isinstance(recipe, Lazy)
    assert recipe().model == 1


def test_ref_survives_copies():
    import copy

    cfg = config(a=1, b=LazyCall(Model)(width=ref("a")))
    other = copy.deepcopy(cfg)
    other.a = 7
    assert instantiate(other.b).width == 7
    assert instantiate(cfg.b).width == 1


def test_cycle_of_refs_shows_the_chain():
    cfg = config(a=ref("b.width"), b=LazyCall(Model)(width=ref("c")), c=ref("a"))
    with pytest.raises(RefError, match=r"cycle: a -> b\.width -> c -> a"):
        instantiate(cfg)


def test_ref_errors():
    for wrong in ((1,), ("a", "b"), ("a", "b", 3), ("",)):
        with pytest.raises(RefError, match=r"test_config_instantiate\.py"):
            ref(*wrong)
    cfg = config(model=LazyCall(Model)(width=1), x=REQUIRED, a=ref("model.widht"), b=ref("x"))
    with pytest.raises(RefError, match=r"no 'widht' in 'model.widht'. Did you mean 'width'"):
        instantiate(cfg.model, width=cfg.a)
    with pytest.raises(RefError, match="'x' is REQUIRED"):
        instantiate(config(b=ref("x"), x=REQUIRED))
    with pytest.raises(MissingArgumentError, match=r"^a\[1\]: REQUIRED"):
        instantiate(config(a=[1, REQUIRED]))


def test_error_in_the_function_of_a_ref_has_a_note():
    with pytest.raises(ZeroDivisionError) as caught:
        instantiate(config(a=0, b=ref("a", lambda a: 1 / a)))
    assert "while building b (defined at" in caught.value.__notes__[0]


def test_partial_of_a_late_parameter():
    made = instantiate(LazyPartial(Hook)(optimizer=LazyCall(Optimizer)(model=1)))
    assert made().optimizer().model == 1


@dataclasses.dataclass
class Settings:
    optimizer: Optimizer | Lazy[Optimizer]
    hooks: list[Lazy[Hook]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class MoreSettings(Settings):
    name: str = ""


def test_dataclasses_ask_for_recipes_too():
    optimizer = LazyCall(Optimizer)(model=1)
    built = instantiate(LazyCall(MoreSettings)(optimizer=optimizer, hooks=[LazyCall(Hook)(optimizer=optimizer)]))
    assert built.optimizer() is built.hooks[0]().optimizer()


def test_lazy_imported_only_for_type_checkers(tmp_path, monkeypatch):
    (tmp_path / "only_checked.py").write_text(
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import lazyengine.config as c\n    from lazyengine.config import Lazy\n"
        "class A:\n    def __init__(self, x: int | Lazy[int], y: c.Lazy[int] | None, z: 'list[c.Model]'):\n"
        "        self.x, self.y, self.z = x, y, z\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    node = LazyCall("only_checked:A")(*[LazyCall(Model)() for _ in range(3)])
    built = instantiate(node)
    assert isinstance(built.x, Lazy)
    assert isinstance(built.y, Lazy)
    assert isinstance(built.z, Model)
