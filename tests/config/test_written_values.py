"""Values that were written by mistake as something else than what is meant."""

import pytest

from lazyengine.config import Config, ConfigError, LazyCall, LazyConfig, OverrideError, TargetError, instantiate


class Free:
    def __init__(self, flag=True, i=3, rate=0.5, name="n", pair=(1, 2), items=[1], anything=None, marker=object()):  # noqa: B006, B008
        self.i = i


def set_free(override):
    return LazyConfig.apply_overrides(Config({"n": LazyCall(Free)()}), [override]).n


@pytest.mark.parametrize(
    "override", ["n.flag=no", "n.flag=1", "n.i=abc", "n.i=true", "n.rate=x", "n.pair=3", "n.items=a"]
)
def test_the_default_of_an_unannotated_parameter_says_what_is_accepted(override):
    with pytest.raises(OverrideError, match="accepts"):
        set_free(override)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("n.flag=false", False),
        ("n.i=1.5", 1.5),
        ("n.i=null", None),
        ("n.rate=1", 1.0),
        ("n.name=1.10", "1.10"),
        ("n.pair=[3,4]", (3, 4)),
        ("n.anything=abc", "abc"),
        ("n.anything=[1]", [1]),
        ("n.marker=abc", "abc"),
    ],
)
def test_what_fits_the_default_is_taken(override, value):
    name = override[2:].partition("=")[0]
    set_value = getattr(set_free(override), name)
    assert set_value == value
    assert type(set_value) is type(value)


@pytest.mark.parametrize("text", [r'"C:\Users\me"', r"'\x'", r'"C:\new\u"', r"'a' 'b'"])
@pytest.mark.parametrize("place", ["n.name", "n.anything", "+n.items[1]"])
def test_a_quoted_value_that_is_no_literal_is_an_error(text, place):
    cfg = Config({"n": LazyCall(Free)(items=[1], name="x")})
    with pytest.raises(OverrideError, match=r"literal|one text"):
        LazyConfig.apply_overrides(cfg, [f"{place}={text}"])


def test_the_error_shows_the_raw_form():
    with pytest.raises(OverrideError, match=r"""write r"C:\\Users\\me", or leave the quotes out"""):
        set_free(r'n.name="C:\Users\me"')
    assert set_free(r'n.name=r"C:\Users\me"').name == r"C:\Users\me"
    assert set_free(r"n.name=C:\Users\me").name == r"C:\Users\me"
    assert set_free("n.name='tis").name == "'tis"


@pytest.mark.parametrize(
    "place", ["opt = L(Opt)(\n    lr='${rate}')", "x = [1,\n '${a.b}']", "opt = L(Opt)()\nopt.lr = '${a}'"]
)
def test_an_interpolation_is_an_error_at_its_line(project, place):
    with pytest.raises(ConfigError, match=r"main\.py:\d: '\$\{.*ref\("):
        project.load(f"rate = 1\n{place}\n")
    project.load("command = 'echo ${HOME}/x'\n")


def test_an_interpolation_on_the_command_line_is_an_error():
    for text in ("${lr}", "[1, ${lr}]", "'${lr}'"):
        with pytest.raises(OverrideError, match="ref"):
            set_free(f"n.name={text}")


@pytest.mark.parametrize(
    "text",
    [
        "opt = L(Opt)\n",
        "_opt = L(Opt)\nrunner = L(Run)(opt=_opt)\n",
        "runner = L(Run)(opt=L(Opt))\n",
        "runner = L(Run)(opts=[1, {'a': L(Opt)}])\n",
        "x = [L(Opt)]\n",
        "runner = L(Run)()\nrunner.opt = L(Opt)\n",
        "opt = LazyPartial(Opt)\n",
        "x = {'a': (1, L(Opt))}\n",
    ],
)
def test_a_node_that_lacks_the_second_call_is_an_error_at_its_line(project, text):
    last = text.count("\n") + 2
    with pytest.raises(TargetError, match=rf"main\.py:[{last - 1}{last}]: .*Opt\)\(...\)"):
        project.load(text)


def test_a_maker_that_is_called_may_have_a_name(project):
    cfg = project.load(
        "from .layers import Conv\nN = L(Net)\nnet = N(width=2)\nconv = Conv()\n",
        layers="Conv = L(Net)\nPool = L(Net)\n",
    )
    assert cfg.net.width == 2


def test_a_missing_second_call_by_hand_is_an_error():
    for value in (LazyCall(Free)(i=LazyCall(Free)), [LazyCall(Free)], LazyCall(Free)):
        with pytest.raises(TargetError, match=r"test_written_values\.py:\d+: .*Free\)\(...\)"):
            instantiate(value)
    cfg = Config({"n": LazyCall(Free)()})
    with pytest.raises(TargetError, match=r"Free\)\(...\)"):
        cfg.n = LazyCall(Free)
