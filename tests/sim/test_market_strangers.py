"""A third node that knows every id and lies; what only the parties may do stays theirs."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shem.bus.types import RemoteError
from shem.kernel.errors import NotFound
from shem.market.ids import Role, negotiation_hash
from shem.market.messages import (
    PROVIDER_AGREEMENT,
    PROVIDER_PROPOSAL,
    REQUESTOR_AGREEMENT,
    REQUESTOR_PROPOSAL,
    AgreementApproved,
    AgreementCancelled,
    AgreementCommitted,
    AgreementReceived,
    AgreementRejected,
    AgreementTerminated,
    GetAgreement,
    InitialProposalReceived,
    ProposalContent,
    ProposalReceived,
    ProposalRejected,
    encode,
)
from shem.net.memory import MemoryFabric
from tests.sim.market_pair import (
    OFFER,
    PROVIDER_SECRET,
    REQUESTOR_SECRET,
    STRANGER_SECRET,
    Side,
    agree,
    negotiate,
    propose,
    running,
)

Three = tuple[Side, Side, Side]
REASON = {"message": "mine now"}
FLAT = '{"golem.node.debug.subnet":"s3"}'


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Three]:
    fabric = MemoryFabric()
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
        running(fabric, tmp_path, STRANGER_SECRET) as stranger,
    ):
        yield requestor, provider, stranger


async def say(sender: Side, receiver: Side, path: str, message: Any) -> object:
    """Send one message; return the Ok value or, for a refusal, its error value."""
    address = f"/from/{sender.node_id}/to/{receiver.node_id}{path}/{message.NAME}"
    try:
        return await sender.bus.request(sender.who, address, encode(message), timeout_s=5)
    except RemoteError as error:
        return error.payload


async def test_stranger_cannot_end_an_agreement(three: Three) -> None:
    requestor, provider, stranger = three
    agreement = await agree(requestor, provider)

    for receiver, path, letter in (
        (provider, PROVIDER_AGREEMENT, "P"),
        (requestor, REQUESTOR_AGREEMENT, "R"),
    ):
        name = f"{letter}-{agreement}"
        refusal = {"Remote": {"NotFound": name}}
        message = AgreementTerminated(name, REASON, "NotSigned", 1)
        assert await say(stranger, receiver, path, message) == refusal
        assert (await receiver.row(agreement)).state == "Approved"


async def test_parties_cannot_act_in_the_other_role(three: Three) -> None:
    requestor, provider, _ = three
    agreement = await propose(requestor, await negotiate(requestor, provider))
    await requestor.market.confirm(requestor.who, agreement, None)
    name = f"P-{agreement}"
    own = AgreementApproved(f"R-{agreement}", "NoSignature", 1)

    assert await say(requestor, requestor, REQUESTOR_AGREEMENT, own) == {
        "Remote": {"NotFound": f"R-{agreement}"}
    }
    assert await say(
        provider, provider, PROVIDER_AGREEMENT, AgreementCommitted(name, "NoSignature")
    ) == {"Remote": ["NotFound", name]}
    for row in (await requestor.row(agreement), await provider.row(agreement)):
        assert row.state == "Pending"


async def test_stranger_cannot_interfere_with_the_handshake(three: Three) -> None:
    requestor, provider, stranger = three
    ids = await negotiate(requestor, provider)
    agreement = await propose(requestor, ids)
    row = await requestor.row(agreement)
    theirs, ours = f"P-{agreement}", f"R-{agreement}"
    draft = f"P{ids.provider_draft[1:]}"
    early = AgreementReceived(draft, ours, row.created_ns, row.valid_to_ns, "NoSignature")

    assert await say(stranger, provider, PROVIDER_AGREEMENT, early) == {
        "Remote": [{"NotFound": draft}, theirs]
    }
    await requestor.market.confirm(requestor.who, agreement, None)
    not_found = {"Remote": {"NotFound": ours}}
    assert (
        await say(
            stranger, requestor, REQUESTOR_AGREEMENT, AgreementApproved(ours, "NoSignature", 1)
        )
        == not_found
    )
    assert (
        await say(stranger, requestor, REQUESTOR_AGREEMENT, AgreementRejected(ours, REASON, 1))
        == not_found
    )
    assert await say(
        stranger, provider, PROVIDER_AGREEMENT, AgreementCommitted(theirs, "NoSignature")
    ) == {"Remote": ["NotFound", theirs]}
    assert await say(
        stranger, provider, PROVIDER_AGREEMENT, AgreementCancelled(theirs, REASON, 1)
    ) == {"Remote": {"NotFound": theirs}}
    await provider.market.approve(provider.who, agreement, None, 5)


async def test_stranger_cannot_reject_or_counter_a_proposal(three: Three) -> None:
    requestor, provider, stranger = three
    ids = await negotiate(requestor, provider)
    draft = f"P{ids.provider_draft[1:]}"
    created_ns = stranger.world.clock.wall_ns()
    content = ProposalContent(
        f"R-{negotiation_hash(ids.offer, ids.demand, created_ns)}",
        FLAT,
        "()",
        created_ns,
        created_ns + 10**9,
    )
    unauthorized = {"Validation": {"Unauthorized": [draft, stranger.node_id]}}

    assert (
        await say(stranger, provider, PROVIDER_PROPOSAL, ProposalRejected(draft, False, REASON))
        == unauthorized
    )
    assert await say(stranger, provider, PROVIDER_PROPOSAL, ProposalReceived(draft, content)) == {
        "Remote": [unauthorized, f"P{content.proposal_id[1:]}"]
    }
    assert await provider.events("offer", ids.offer, timeout_s=0.0) == []
    await requestor.counter(Role.REQUESTOR, ids.demand, ids.provider_draft)


async def test_stranger_cannot_make_others_forget_an_offer(three: Three) -> None:
    requestor, provider, stranger = three
    demand = await requestor.seek()
    offer = await provider.publish()
    [event] = await requestor.events("demand", demand)

    await requestor.market._discovery._take_unsubscribes(stranger.node_id, (offer,))

    await requestor.counter(Role.REQUESTOR, demand, event["proposal"]["proposalId"])


async def test_stranger_is_not_shown_an_agreement(three: Three) -> None:
    requestor, provider, stranger = three
    agreement = await agree(requestor, provider)
    question = GetAgreement(agreement, "Provider")

    assert await say(stranger, provider, "/market", question) == {"notFound": agreement}
    shown = await say(requestor, provider, "/market", question)
    assert isinstance(shown, dict)
    assert (shown["agreementId"], shown["state"]) == (agreement, "Approved")
    assert shown["offer"]["properties"] == OFFER
    with pytest.raises(NotFound):
        await provider.market.agreement_of(stranger.who, agreement)


async def test_stranger_lists_no_agreements(three: Three) -> None:
    requestor, provider, stranger = three
    agreement = await agree(requestor, provider)
    body = {"state": "Approved"}

    async def listed(asker: Side) -> list[str]:
        address = f"/from/{asker.node_id}/to/{provider.node_id}/market/ListAgreements"
        entries = await asker.bus.request(asker.who, address, body, timeout_s=5)
        assert isinstance(entries, list)
        return [entry["id"] for entry in entries]

    assert await listed(stranger) == []
    assert await listed(requestor) == [agreement]


async def test_forged_ids_are_refused_with_the_expected_hash(three: Three) -> None:
    requestor, provider, _ = three
    offer = await provider.publish()
    demand = await requestor.seek()
    forged = f"R-{'0' * 64}"
    content = ProposalContent(forged, FLAT, "()", 10**18, 10**18 + 1)
    expected = negotiation_hash(offer, demand, 10**18)

    answer = await say(
        requestor, provider, PROVIDER_PROPOSAL, InitialProposalReceived(content, offer, demand)
    )

    name = f"P{forged[1:]}"
    assert answer == {"Remote": [{"InvalidId": [name, expected]}, name]}


@pytest.mark.parametrize("path", [PROVIDER_PROPOSAL, REQUESTOR_PROPOSAL])
async def test_counter_of_an_unknown_proposal_is_refused(three: Three, path: str) -> None:
    requestor, provider, _ = three
    letter = "P" if path == PROVIDER_PROPOSAL else "R"
    content = ProposalContent(f"R-{'1' * 64}", FLAT, "()", 1, 2)
    message = ProposalReceived(f"R-{'2' * 64}", content)

    assert await say(requestor, provider, path, message) == {
        "Remote": [{"NotFound": f"{letter}-{'2' * 64}"}, f"{letter}-{'1' * 64}"]
    }


@pytest.mark.parametrize(
    "body",
    [None, 1, [], {}, {"agreementId": 7}, {"agreementId": "x"}, {"agreementId": f"Q-{'0' * 64}"}],
)
async def test_malformed_messages_get_an_error_value(three: Three, body: object) -> None:
    requestor, provider, _ = three
    address = f"/from/{requestor.node_id}/to/{provider.node_id}{PROVIDER_AGREEMENT}"

    for name in ("AgreementReceived", "AgreementCommitted", "AgreementTerminated"):
        with pytest.raises(RemoteError) as caught:
            await requestor.bus.request(requestor.who, f"{address}/{name}", body, timeout_s=5)
        assert list(caught.value.payload) == ["CallerParse"]  # type: ignore[call-overload]


async def test_offer_that_claims_to_be_ours_is_not_taken(three: Three) -> None:
    requestor, provider, _ = three
    offer = await provider.publish()
    rows = await provider.store.fetch("SELECT * FROM subscription LIMIT 1")
    assert rows[0]["subscription_id"] == offer
    async with provider.store.unit("test") as unit:
        unit.execute("DELETE FROM subscription")

    from shem.market.records import Subscription

    row = Subscription(**{**rows[0], "own": False}).as_offer_row()
    stored = await provider.market._discovery._store(requestor.node_id, {offer}, [row])

    assert stored == []


async def test_offer_with_a_wrong_hash_is_not_taken(three: Three) -> None:
    from dataclasses import replace

    from shem.market.records import Subscription

    requestor, provider, stranger = three
    offer = await provider.publish()
    rows = await provider.store.fetch("SELECT * FROM subscription LIMIT 1")
    row = replace(Subscription(**rows[0]).as_offer_row(), constraints="()")

    stored = await stranger.market._discovery._store(requestor.node_id, {offer}, [row])

    assert stored == []
