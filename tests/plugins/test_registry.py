"""The registry: every name has one owner, an error names its plugin, and the other plugins go on working."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest
from attrs import field, frozen
from attrs.validators import ge
from torch import nn

from scalekv_core import InputError, PluginError, Policy, Registry, SessionError, UnknownName, compress, hookimpl
from scalekv_core.plugins.offers import HOOKS
from scalekv_core.plugins.registry import load_model, shared_registry
from scalekv_core.testing import toy

PLUGINS = Path(__file__).parents[1] / "plugins"


def plugin(name: str = "test_plugin", **hooks: Callable[[], Any]) -> SimpleNamespace:
    """A plugin object with these hooks."""
    return SimpleNamespace(__name__=name, **{hook: hookimpl(implementation) for hook, implementation in hooks.items()})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs made-up distributions into a folder that is on the path for this test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(name: str, module: str, *, version: str = "0.1", entry_point: str | None = None) -> None:
        importable = name.replace("-", "_")
        (tmp_path / f"{importable}.py").write_text(dedent(module))
        info = tmp_path / f"{importable}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[scalekv]\n{entry_point or name} = {importable}\n")

    yield install
    for module in set(sys.modules) - before:
        del sys.modules[module]


@pytest.fixture
def only_site(site: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """As ``site``, with nothing else installed."""
    monkeypatch.setattr(
        "scalekv_core.plugins.loading.entry_points",
        lambda group: [point for point in entry_points(group=group) if tmp_path in Path(str(point.dist._path)).parents],
    )
    return site


GOOD = """
    from scalekv_core import hookimpl
    from scalekv_core.testing.toy import Latest

    @hookimpl
    def scalekv_token_selectors():
        return {"NAME": Latest}
"""


# -- what a registry answers --------------------------------------------------------------------------------------


def test_an_empty_registry_knows_nothing() -> None:
    """An empty registry is no error; it answers every name with the message that nothing is installed."""
    registry = Registry.of()

    assert [] == [name for kind in HOOKS for name in registry.names(kind)]
    for kind in HOOKS:
        with pytest.raises(UnknownName, match=rf"no {kind} is called 'x'. Known: none"):
            registry.make(kind, "x")
    with pytest.raises(SessionError, match="no adapter knows a Linear; installed adapters: none"):
        registry.adapter_for(nn.Linear(1, 1))


def test_everything_of_a_plugin_is_there() -> None:
    """Every offer is listed by kind and name, with its owner."""
    registry = Registry.of(toy)

    assert {
        ("policy", "toy-latest"), ("selector", "toy-latest"), ("adapter", "toy"), ("model", "toy"), ("model", "toy-video"),
    } == {*registry.offers}  # fmt: skip
    assert "plugin 'scalekv_core.testing.toy' (this process)" == str(registry.offer("policy", "toy-latest").owner)
    assert toy.latest() == registry.make("policy", "toy-latest")
    assert isinstance(registry.make("adapter", "toy"), toy.ToyAdapter)
    assert "toy" == load_model("toy", registry=registry).name


def test_names_are_sorted() -> None:
    """The order in which a plugin offers names does not matter."""
    registry = Registry.of(plugin(scalekv_token_selectors=lambda: {"b": toy.Latest, "c": toy.Latest, "a": toy.Latest}))

    assert ["a", "b", "c"] == registry.names("selector")


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    """The message also lists what is installed."""
    with pytest.raises(
        UnknownName, match=r"no policy is called 'toy-last'; did you mean 'toy-latest'\? Known: toy-latest"
    ):
        Registry.of(toy).policy("toy-last")


@frozen
class Every(toy.Latest):
    """A selector with an option."""

    stride: int = field(default=2, validator=ge(1))


OFFERS = plugin(
    "offers",
    scalekv_policies=lambda: {"toy-latest": toy.latest},
    scalekv_token_selectors=lambda: {"every": Every},
)


def test_parts_and_options_by_name() -> None:
    """A part is exchanged by name or value, its options are set from text, and the name shows the exchange."""
    registry = Registry.of(OFFERS)

    assert Every(stride=3) == registry.policy("toy-latest", selector="every", options={"stride": "3"}).selector
    assert Every(stride=4) == registry.policy("toy-latest", selector=Every(stride=4), classifier=None).selector
    assert Every(stride=5) == registry.make("selector", "every", {"stride": 5})
    assert "toy-latest selector=every" == registry.policy("toy-latest", selector="every").name
    assert "toy-latest selector=Every" == registry.policy("toy-latest", selector=Every()).name
    own = toy.latest()
    assert own is registry.policy(own)


def test_an_option_may_stand_among_the_parts() -> None:
    """An option is given by its name, as text or value; a budget given so becomes the policy's own."""
    registry = Registry.of(OFFERS)
    policy = registry.policy("toy-latest", selector="every", stride="3", budget="2 tokens")

    assert (Every(stride=3), "2 tokens") == (policy.selector, policy.budget)
    assert policy == registry.policy("toy-latest", selector="every", options={"stride": 3}, budget="2 tokens")
    with pytest.raises(InputError, match=r"has no option 'strid'; did you mean 'stride'\? It has: stride=2"):
        registry.policy("toy-latest", selector="every", strid=3)


def test_an_option_out_of_range_names_part_and_policy() -> None:
    """The message is one line that names both."""
    with pytest.raises(
        InputError, match=r"^selector of policy 'toy-latest selector=every' refuses stride=0: .* >= 1: 0$"
    ):
        Registry.of(OFFERS).policy("toy-latest", selector="every", options={"stride": "0"})


@pytest.mark.parametrize("value", [3, object(), toy.Latest, toy.Even()], ids=["int", "object", "class", "allocator"])
def test_a_part_of_another_kind_is_refused(value: object) -> None:
    """A class where a value is needed is refused too, in one line, as an input error."""
    with pytest.raises(InputError, match="selector of policy 'toy-latest' must be a name or a TokenSelector; got"):
        Registry.of(OFFERS).policy("toy-latest", selector=value)


def test_a_part_that_does_not_exist_is_refused() -> None:
    """The message has the nearest match."""
    with pytest.raises(InputError, match=r"policy 'toy-latest' has no option 'selectr'; did you mean 'selector'\?"):
        Registry.of(OFFERS).policy("toy-latest", selectr="every")


@pytest.mark.parametrize("value", [None, 3, toy.latest, toy.Latest()], ids=["none", "int", "factory", "selector"])
def test_what_is_no_policy_is_refused(value: Any) -> None:
    """A policy is a name or a Policy."""
    with pytest.raises(InputError, match="wanted the name of a policy or a Policy; got"):
        Registry.of(OFFERS).policy(value)


def test_a_factory_is_called_every_time() -> None:
    """The registry keeps no instances."""
    made: list[Policy] = []

    def factory() -> Policy:
        made.append(toy.latest())
        return made[-1]

    registry = Registry.of(plugin(scalekv_policies=lambda: {"counted": factory}))
    assert [] == made
    registry.make("policy", "counted")
    registry.make("policy", "counted")
    assert 2 == len(made)


# -- what a plugin can do wrong -----------------------------------------------------------------------------------


def _raise(error: Exception) -> Any:
    raise error


def _nothing() -> dict[str, Any]:
    return {}


FAULTS = {
    "misspelt hook": (plugin(scalekv_selectors=_nothing), "unknown hook 'scalekv_selectors'"),
    "nothing at all": (plugin(), "it offers nothing"),
    "an empty mapping": (plugin(scalekv_policies=_nothing), "it offers nothing"),
    "an unmarked function": (
        SimpleNamespace(__name__="p", scalekv_policies=lambda: {"x": toy.latest}),
        "it offers nothing",
    ),
    "a hook that needs an argument": (plugin(scalekv_policies=lambda manager: {"x": toy.latest}), "scalekv_policies"),
    "a hook that raises": (
        plugin(scalekv_policies=lambda: _raise(RuntimeError("boom"))),
        r"its hook scalekv_policies failed \(RuntimeError: boom\)",
    ),
    "a list": (plugin(scalekv_policies=lambda: [toy.latest]), "its hook scalekv_policies must return a mapping"),
    "none": (plugin(scalekv_policies=lambda: None), "must return a mapping .* got None"),
    "values for factories": (plugin(scalekv_policies=lambda: {"x": toy.latest()}), "must return a mapping"),
    "names that are no text": (plugin(scalekv_policies=lambda: {1: toy.latest}), "must return a mapping"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_plugin_is_refused_by_name(fault: str) -> None:
    """The message is one line that names the plugin and the reason."""
    faulty, reason = FAULTS[fault]

    with pytest.raises(PluginError, match=reason) as refusal:
        Registry.of(toy, faulty)
    assert str(refusal.value).startswith(f"plugin '{faulty.__name__}' (this process) is not in use: ")
    assert 1 == len(str(refusal.value).splitlines())


def test_the_hooks_are_listed_where_one_is_misspelt() -> None:
    """The message lists the hooks, so that the author need not look them up."""
    with pytest.raises(PluginError) as refusal:
        Registry.of(FAULTS["misspelt hook"][0])
    assert all(hook in str(refusal.value) for hook in HOOKS.values())


def test_two_owners_of_a_name_are_both_named() -> None:
    """The first plugin keeps the name."""
    thief = plugin("thief", scalekv_policies=lambda: {"toy-latest": toy.latest})

    with pytest.raises(
        PluginError,
        match=r"plugin 'thief' \(this process\) is not in use: policy 'toy-latest' is already offered by "
        r"plugin 'scalekv_core\.testing\.toy' \(this process\); rename it",
    ):
        Registry.of(toy, thief)


@pytest.mark.parametrize(
    ("first", "second", "owner"),
    [({}, {}, "a"), ({}, {"tryfirst": True}, "b"), ({"trylast": True}, {}, "b"), ({"tryfirst": True}, {}, "a")],
    ids=["alphabet", "tryfirst", "trylast", "both orders"],
)
def test_pluggys_order_decides_who_keeps_a_name(
    only_site: Callable[..., None], first: dict[str, bool], second: dict[str, bool], owner: str
) -> None:
    """All plugins register with one manager; the one whose hook is called first keeps the name."""
    for name, how in (("a", first), ("b", second)):
        marked = "@hookimpl(" + ", ".join(f"{key}={value}" for key, value in how.items()) + ")"
        only_site(name, GOOD.replace("NAME", "same").replace("@hookimpl", marked))
    registry = Registry.installed()

    assert owner == registry.offer("selector", "same").owner.plugin
    assert [owner] == [one.plugin for one in registry.owners]
    assert 1 == len(registry.problems)


def test_tryfirst_takes_no_name_from_scalekv(only_site: Callable[..., None]) -> None:
    """scalekv's own plugins are called first, even if another one asks for ``tryfirst``."""
    only_site("aaa", GOOD.replace("NAME", "wanted").replace("@hookimpl", "@hookimpl(tryfirst=True)"))
    only_site("scalekv", GOOD.replace("NAME", "wanted"))

    assert "scalekv" == Registry.installed().offer("selector", "wanted").owner.distribution


@pytest.mark.parametrize("how", ["wrapper", "hookwrapper"])
def test_a_wrapper_is_refused_by_name(how: str) -> None:
    """A hook wrapper would be ignored, since every hook offers names of its own."""

    def wraps() -> Iterator[None]:
        yield

    wrapping = SimpleNamespace(__name__="wrapping", scalekv_policies=hookimpl(**{how: True})(wraps))
    with pytest.raises(PluginError, match=r"plugin 'wrapping' .* its hook scalekv_policies is a wrapper; every hook"):
        Registry.of(toy, wrapping)


def test_another_name_for_a_hook_works() -> None:
    """pluggy's ``specname`` says which hook a function implements."""
    named = SimpleNamespace(
        __name__="named", mine=hookimpl(specname="scalekv_token_selectors")(lambda: {"x": toy.Latest})
    )

    assert ["x"] == Registry.of(named).names("selector")


def test_a_module_is_one_plugin(only_site: Callable[..., None], tmp_path: Path) -> None:
    """Of two entry points that name one module, the second is left out."""
    only_site("a-one", GOOD.replace("NAME", "one"))
    (tmp_path / "a_one-0.1.dist-info" / "entry_points.txt").write_text("[scalekv]\na-one = a_one\nagain = a_one\n")
    registry = Registry.installed()

    assert ["one"] == registry.names("selector")
    (problem,) = map(str, registry.problems)
    assert "it is the same module as plugin " in problem


def test_the_same_name_of_another_kind_is_free() -> None:
    """A selector and a policy may have the same name."""
    registry = Registry.of(toy, plugin(scalekv_token_mergers=lambda: {"toy-latest": toy.Latest}))

    assert ["toy-latest"] == registry.names("merger")


@pytest.mark.parametrize("kind", HOOKS)
def test_a_factory_that_makes_something_else_is_named(kind: str) -> None:
    """The message has kind, name, owner, expected type and actual type."""
    registry = Registry.of(plugin(**{HOOKS[kind]: lambda: {"odd": object}}))

    with pytest.raises(
        PluginError, match=rf"{kind} 'odd' of plugin 'test_plugin' \(this process\) must be a \w+; got object"
    ):
        registry.make(kind, "odd")


def test_a_factory_that_fails_is_named() -> None:
    """A foreign error is raised with its owner; an error of scalekv passes through."""
    registry = Registry.of(
        plugin(
            scalekv_token_selectors=lambda: {
                "foreign": lambda: _raise(KeyError("lost")),
                "ours": lambda: _raise(InputError("say it better")),
                "needs more": lambda argument: toy.Latest(),
            }
        )
    )
    with pytest.raises(
        PluginError, match=r"selector 'foreign' of plugin 'test_plugin' .* cannot be made \(KeyError: 'lost'\)"
    ):
        registry.make("selector", "foreign")
    with pytest.raises(InputError, match=r"^say it better$"):
        registry.make("selector", "ours")
    with pytest.raises(PluginError, match=r"cannot be made \(TypeError"):
        registry.make("selector", "needs more")


class Picky(toy.ToyAdapter):
    """An adapter that raises in ``matches``."""

    def matches(self, model: nn.Module) -> bool:
        raise AttributeError("no attribute 'blocks'")


def test_an_adapter_that_fails_is_named() -> None:
    """Adapters are asked about models of every other family too, which is easy to get wrong."""
    registry = Registry.of(toy, plugin("careless", scalekv_model_adapters=lambda: {"picky": Picky}))

    with pytest.raises(
        PluginError, match=r"adapter 'picky' of plugin 'careless' .* cannot tell .* \(AttributeError: no attribute"
    ):
        registry.adapter_for(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("geometry", None, "cannot tell the shape of this ToyModel \\(KeyError: 'blocks'\\)"),
        ("geometry", "large", "must return a CacheGeometry; got 'large'"),
        ("attach", None, "cannot attach to this ToyModel \\(KeyError: 'blocks'\\)"),
        ("attach", "done", "must return from attach what detaches; got 'done'"),
    ],
)
def test_what_an_adapter_does_wrong_is_told_with_its_plugin(method: str, answer: Any, message: str) -> None:
    """The error names the plugin and is not only a traceback of foreign code."""

    def wrong(*_: object) -> Any:
        return answer or {}["blocks"]

    careless = type("Careless", (toy.ToyAdapter,), {method: wrong})
    registry = Registry.of(plugin("careless", scalekv_model_adapters=lambda: {"odd": careless}))
    with (
        pytest.raises(PluginError, match=f"^adapter 'odd' of plugin 'careless' .this process. {message}"),
        compress(toy.ToyCard().load(), toy.latest(), registry=registry),
    ):
        raise AssertionError("the block was entered")


def test_two_adapters_that_know_a_model_are_both_named() -> None:
    """Neither adapter takes the model from the other in silence."""
    registry = Registry.of(toy, plugin("greedy", scalekv_model_adapters=lambda: {"all": toy.ToyAdapter}))

    with pytest.raises(
        PluginError,
        match=r"^2 adapters know this ToyModel: 'all' of plugin 'greedy' .this process. and 'toy' of plugin "
        r"'scalekv_core\.testing\.toy' .this process.; load only one of their plugins, with SCALEKV_PLUGINS$",
    ):
        registry.adapter_for(toy.ToyCard().load().module)


# -- installed plugins --------------------------------------------------------------------------------------------


def test_a_third_party_plugin_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its distribution's entry point is enough, and it works together with what is built in."""
    monkeypatch.syspath_prepend(PLUGINS)
    monkeypatch.delitem(sys.modules, "scalekv_lottery", raising=False)
    registry = Registry.installed()

    assert "plugin 'lottery' (scalekv-lottery 0.1)" == str(registry.offer("selector", "lottery").owner)
    policy = registry.policy("uniform", selector="lottery", options={"seed": "3"})
    model = toy.ToyCard().load()
    with compress(model, policy, "50%", registry=Registry.of(toy)) as session:
        model.generate(["1", "2"], seeds=[0, 0])
    assert session.report().images[0].as_planned


def test_a_plugin_leaves_with_its_path() -> None:
    """The plugin of the previous test is gone."""
    assert "lottery" not in Registry.installed().names("selector")


def test_nothing_installed_is_an_error(only_site: Callable[..., None]) -> None:
    """A bare checkout has no entry points; an empty list of policies would hide that."""
    with pytest.raises(PluginError, match=r"no plugin is installed in the entry-point group 'scalekv'; .*pip install"):
        Registry.installed()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (
            "import a_module_that_is_nowhere",
            "does not import (ModuleNotFoundError: No module named 'a_module_that_is_nowhere')",
        ),
        ("this is no python", "does not import (SyntaxError: "),
        ("raise RuntimeError('boom')", "does not import (RuntimeError: boom)"),
        ("import sys; sys.exit('usage: ...')", "does not import (SystemExit: usage: ...)"),
        ("class Odd(BaseException): pass\nraise Odd('no')", "does not import (Odd: no)"),
        (GOOD.replace('{"NAME": Latest}', "exit(3)"), "its hook scalekv_token_selectors failed (SystemExit: 3)"),
        ("", "it offers nothing"),
        (GOOD.replace("token_selectors", "selectors"), "unknown hook 'scalekv_selectors'"),
        (GOOD.replace('{"NAME": Latest}', "1 / 0"), "its hook scalekv_token_selectors failed (ZeroDivisionError"),
        (GOOD.replace("NAME", "a-good"), "selector 'a-good' is already offered by plugin 'a-good' (a-good 1.2)"),
    ],
)
def test_one_bad_plugin_does_not_stop_the_others(only_site: Callable[..., None], module: str, reason: str) -> None:
    """The message names its distribution and version; the plugins before and after it work."""
    only_site("a-good", GOOD.replace("NAME", "a-good"), version="1.2")
    only_site("m-bad", module, version="3.4")
    only_site("z-good", GOOD.replace("NAME", "z-good"))
    registry = Registry.installed()

    assert ["a-good", "z-good"] == registry.names("selector")
    assert ["a-good", "z-good"] == [owner.plugin for owner in registry.owners]
    (problem,) = map(str, registry.problems)
    assert problem.startswith("plugin 'm-bad' (m-bad 3.4) is not in use: ")
    assert reason in problem
    assert 1 == len(problem.splitlines())
    with pytest.raises(UnknownName, match=r"m-bad 3\.4"):
        registry.make("policy", "what m-bad would have offered")
    with pytest.raises(SessionError, match=r"m-bad 3\.4"):
        registry.adapter_for(nn.Linear(1, 1))


def test_an_interrupt_is_no_fault_of_a_plugin(only_site: Callable[..., None]) -> None:
    """Ctrl-C while plugins load ends the program."""
    only_site("m-slow", "raise KeyboardInterrupt")

    with pytest.raises(KeyboardInterrupt):
        Registry.installed()


def test_a_taken_entry_point_name_is_named(only_site: Callable[..., None]) -> None:
    """Both plugins are named; pluggy's own loader would leave the second one out in silence."""
    only_site("a-first", GOOD.replace("NAME", "one"), entry_point="same")
    only_site("b-second", GOOD.replace("NAME", "two"), entry_point="same")
    registry = Registry.installed()

    assert ["one"] == registry.names("selector")
    assert [
        "plugin 'same' (b-second 0.1) is not in use: the entry point name 'same' is taken by plugin 'same' (a-first 0.1); rename one"
    ] == list(map(str, registry.problems))


def test_our_own_rooms_come_first(only_site: Callable[..., None]) -> None:
    """A third party whose name sorts earlier takes no name from scalekv."""
    only_site("aaa", GOOD.replace("NAME", "wanted"))
    only_site("scalekv", GOOD.replace("NAME", "wanted"))
    registry = Registry.installed()

    assert "scalekv" == registry.offer("selector", "wanted").owner.distribution
    assert ["aaa"] == [problem.owner.distribution for problem in registry.problems]


@pytest.fixture
def fresh_shared_registry() -> Iterator[None]:
    """Clears the cached registry before this test and after it."""
    shared_registry.cache_clear()
    yield
    shared_registry.cache_clear()


@pytest.mark.usefixtures("fresh_shared_registry")
@pytest.mark.parametrize(
    ("chosen", "names"), [(None, ["one", "two"]), ("b-two", ["two"]), (" b-two , a-one ", ["one", "two"]), ("", [])]
)
def test_an_environment_variable_chooses(
    only_site: Callable[..., None], monkeypatch: pytest.MonkeyPatch, chosen: str | None, names: list[str]
) -> None:
    """SCALEKV_PLUGINS names the entry points to load; empty loads none; the shared registry is made once."""
    only_site("a-one", GOOD.replace("NAME", "one"))
    only_site("b-two", GOOD.replace("NAME", "two"))
    monkeypatch.delenv("SCALEKV_PLUGINS", raising=False)
    if chosen is not None:
        monkeypatch.setenv("SCALEKV_PLUGINS", chosen)

    assert names == shared_registry().names("selector")
    assert shared_registry() is shared_registry()


@pytest.mark.usefixtures("fresh_shared_registry")
def test_a_chosen_plugin_has_to_be_there(only_site: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The message for a misspelt entry point has the nearest one."""
    only_site("a-one", GOOD.replace("NAME", "one"))
    monkeypatch.setenv("SCALEKV_PLUGINS", "a-two")

    with pytest.raises(UnknownName, match=r"no plugin is called 'a-two'; did you mean 'a-one'\? Known: a-one"):
        shared_registry()


def test_a_plugin_that_is_not_chosen_is_not_imported(only_site: Callable[..., None]) -> None:
    """Users find a faulty plugin by leaving it out."""
    only_site("a-one", GOOD.replace("NAME", "one"))
    only_site("b-bad", "raise RuntimeError")
    registry = Registry.installed(["a-one"])

    assert () == registry.problems
    assert "b_bad" not in sys.modules


def test_the_installation_has_no_problems() -> None:
    """Everything that is built in loads and can be made."""
    registry = Registry.installed()

    assert () == registry.problems
    for kind, name in registry.offers:
        registry.make(kind, name)


def test_hooks_and_kinds_agree() -> None:
    """Every hook of the specification belongs to one kind."""
    manager = pluggy.PluginManager("scalekv")
    from scalekv_core.plugins import hookspecs

    manager.add_hookspecs(hookspecs)
    assert sorted(HOOKS.values()) == sorted(name for name in vars(manager.hook) if not name.startswith("_"))
