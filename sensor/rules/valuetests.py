"""Compiled tests of one value, for the predicates that no text scanner answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

from sensor.rules.condition import PAIRED, Network, Predicate, Regex, Wildcard
from sensor.rules.linear import compile_pattern, wildcard_pattern
from sensor.rules.reference import address_of, satisfied, true_of
from sensor.rules.values import Scalar, find, fold, scalars, text_of

Document = Mapping[str, Any]


def value_test(predicate: Predicate) -> Callable[[Scalar], bool]:
    """A test whether one value satisfies a predicate that looks at one field."""
    if isinstance(predicate, Regex):
        search = compile_pattern(predicate.pattern, predicate.flags)
        return lambda value: search(text_of(value))
    if isinstance(predicate, Wildcard):
        match = compile_pattern(wildcard_pattern(predicate.parts))
        if predicate.cased:
            return lambda value: match(text_of(value))
        return lambda value: match(fold(text_of(value)))
    if isinstance(predicate, Network):
        network = ipaddress.ip_network(predicate.network)
        return lambda value: (address := address_of(value)) is not None and address in network
    return lambda value: satisfied(predicate, value)


def document_test(predicate: Predicate) -> Callable[[Document], bool]:
    """A test whether a predicate is true for a document."""
    if isinstance(predicate, PAIRED):
        return lambda document: true_of(predicate, document)
    field, test = predicate.field, value_test(predicate)
    return lambda document: any(map(test, scalars(find(document, field))))
