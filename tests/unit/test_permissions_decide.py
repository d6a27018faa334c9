"""One table of who may do what: owners of the agreement, this node, and nobody else."""

import pytest

from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import Denied, NotSupported
from shem.kernel.ids import ZERO_NODE, NodeId
from shem.permissions import NODE, Action, Resource, decide
from shem.permissions.decide import MIN_ASSURANCE

REQUESTOR, PROVIDER, STRANGER = (NodeId("0x" + digit * 40) for digit in "abc")
RENTAL = Resource("ab" * 32, REQUESTOR, PROVIDER)
OWNERS = {"req": REQUESTOR, "prov": PROVIDER}


def namespace(action: Action) -> str:
    return action.partition(":")[0]


def allowed(node_id: NodeId, action: Action, resource: Resource, assurance: Assurance) -> bool:
    return decide(Caller(node_id, assurance), action, resource, now_ns=0).allowed


@pytest.mark.parametrize("action", list(Action))
def test_every_action_has_a_namespace_with_a_policy(action: Action) -> None:
    assert namespace(action) in MIN_ASSURANCE


@pytest.mark.parametrize("action", [a for a in Action if namespace(a) in OWNERS])
@pytest.mark.parametrize("node_id", [REQUESTOR, PROVIDER, STRANGER, ZERO_NODE])
@pytest.mark.parametrize("assurance", list(Assurance))
def test_an_action_on_an_agreement_belongs_to_its_own_side(
    action: Action, node_id: NodeId, assurance: Assurance
) -> None:
    is_owner = node_id == OWNERS[namespace(action)]
    assert allowed(node_id, action, RENTAL, assurance) is is_owner


@pytest.mark.parametrize("action", [a for a in Action if namespace(a) == "node"])
@pytest.mark.parametrize("assurance", list(Assurance))
def test_the_node_itself_belongs_to_its_own_processes(action: Action, assurance: Assurance) -> None:
    for node_id in (REQUESTOR, STRANGER, ZERO_NODE):
        assert allowed(node_id, action, NODE, assurance) is (assurance is Assurance.LOCAL)


@pytest.mark.parametrize("action", [Action.EXEC, Action.PROV_SET_ACTIVITY_STATE])
def test_a_resource_without_an_owner_is_nobodys(action: Action) -> None:
    for node_id in (REQUESTOR, PROVIDER, ZERO_NODE):
        assert not allowed(node_id, action, NODE, Assurance.LOCAL)


def test_a_refusal_names_caller_and_owner_in_the_words_of_the_reference() -> None:
    caller = Caller(STRANGER, Assurance.PROVEN)
    with pytest.raises(Denied) as error:
        decide(caller, Action.EXEC, RENTAL, now_ns=0).require()
    assert error.value.status == 403
    assert error.value.message == (f"Forbidden: caller: {STRANGER} is not authorized: {REQUESTOR}")


@pytest.mark.parametrize("extra", [{"acl": object()}, {"attestations": [b"x"]}])
def test_lists_and_attestations_are_refused_until_they_are_understood(
    extra: dict[str, object],
) -> None:
    caller = Caller(REQUESTOR, Assurance.LOCAL)
    with pytest.raises(NotSupported):
        decide(caller, Action.EXEC, RENTAL, now_ns=0, **extra)  # type: ignore[arg-type]


def test_a_digest_alone_changes_nothing() -> None:
    caller = Caller(REQUESTOR, Assurance.VOUCHED)
    decide(caller, Action.EXEC, RENTAL, request_digest=b"d", now_ns=0).require()
