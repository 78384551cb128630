import pytest

from lazyengine.logging import ManagerMixin, MessageHub, MMLogger


class Shared(ManagerMixin):
    def __init__(self, name, size=0):
        super().__init__(name)
        self.size = size


@pytest.fixture(autouse=True)
def no_instances():
    Shared._instances.clear()


def test_the_same_name_gives_the_same_instance():
    first = Shared.get_instance("a", size=3)
    assert Shared.get_instance("a") is first
    assert (first.instance_name, first.size) == ("a", 3)
    assert Shared.get_instance("b") is not first


def test_current_is_the_one_created_last():
    Shared.get_instance("a")
    b = Shared.get_instance("b")
    Shared.get_instance("a")
    assert Shared.get_current_instance() is b


def test_no_current_instance_is_an_error_that_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"call Shared\.get_instance\(name\) first"):
        Shared.get_current_instance()


def test_arguments_for_an_existing_instance_are_reported():
    Shared.get_instance("a")
    with pytest.warns(UserWarning, match="size given to get_instance has no effect"):
        Shared.get_instance("a", size=2)


def test_check_and_discard():
    first = Shared.get_instance("a")
    assert Shared.check_instance_created("a")
    Shared.discard_instance("a")
    Shared.discard_instance("a")
    assert not Shared.check_instance_created("a")
    assert Shared.get_instance("a") is not first


def test_classes_do_not_share_instances():
    class Other(Shared):
        pass

    assert Other.get_instance("a") is not Shared.get_instance("a")


@pytest.mark.parametrize("name", ["", None, 3])
def test_names_are_non_empty_strings(name):
    with pytest.raises(TypeError, match="non-empty str"):
        Shared.get_instance(name)
    with pytest.raises(TypeError, match="non-empty str"):
        Shared(name)


def test_a_failing_constructor_leaves_nothing_behind():
    with pytest.raises(TypeError, match="unexpected keyword"):
        Shared.get_instance("a", colour=1)
    assert not Shared.check_instance_created("a")


def test_hub_and_logger_have_a_default_instance():
    for cls in (MessageHub, MMLogger):
        assert cls.get_current_instance().instance_name == "lazyengine"
