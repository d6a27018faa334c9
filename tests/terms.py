"""Terms that an ExeUnit works under, as tests need them."""

from typing import Any

from shem.exeunit.agreement import AgreementTerms, parse_terms


def agreement_terms(**demand: Any) -> AgreementTerms:
    """Return terms at 0.5 for a second of processor time, 0.75 of duration, and 0.5 to begin."""
    offer = {
        "golem.com.usage.vector": ["golem.usage.cpu_sec", "golem.usage.duration_sec"],
        "golem.com.pricing.model.linear.coeffs": [0.5, 0.75, 0.5],
    }
    return parse_terms(
        {
            "agreementId": "a" * 64,
            "demand": {"properties": demand},
            "offer": {"properties": offer},
        }
    )
