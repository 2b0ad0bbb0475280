"""Drawn JSON schemas: what people write for tools and answers. Each allows at least one value."""

from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["city", "count", "kind", "when", "tags", "next", "answer", "a b", "x/y~z"])
LEAF_VALUES = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["red", "green", "", "7"])
PATTERNS = (
    r"^[A-Z]{2}-\d{4}$",
    r"^\w+@\w+\.(com|org)$",
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
    r"[^a-z]+",
    "(a|b)+?c*",
)
FORMATS = (
    "date",
    "time",
    "date-time",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uuid",
    "duration",
    "binary",
)


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a number within bounds, which leave little room but where it must be a multiple."""
    schema: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "number"]))}
    steps = [None, 1, 5, 10] + ([0.5, 0.01] if schema["type"] == "number" else [])
    low, step = draw(st.integers(-1_000, 1_000)), draw(st.sampled_from(steps))
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        width = draw(st.integers(2 if step in (None, 1) else 20, 30))
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + width
    return schema if step is None else {**schema, "multipleOf": step}


@st.composite
def strings(draw: st.DrawFn) -> dict[str, Any]:
    least = draw(st.integers(0, 30))
    more = draw(
        st.one_of(
            st.just({}),
            st.sampled_from(PATTERNS).map(lambda pattern: {"pattern": pattern}),
            st.sampled_from(FORMATS).map(lambda name: {"format": name}),
            st.just({"minLength": least}),
            st.integers(0, 20).map(lambda n: {"minLength": least, "maxLength": least + n}),
        )
    )
    return {"type": "string", **more}


LEAVES = st.one_of(
    numbers(),
    strings(),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, True, {"type": ["string", "null"]}]),
    st.lists(LEAF_VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    LEAF_VALUES.map(lambda value: {"const": value}),
    st.just({"type": ["integer", "null"], "enum": [None, 3]}),
)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any], references: bool = False) -> dict[str, Any]:
    known = {"node": {"$ref": "#/$defs/node"}} if references else {}
    properties = known | draw(st.dictionaries(NAMES, inner, max_size=4))
    names = sorted(properties)
    required = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if draw(st.booleans()):
        schema["additionalProperties"] = draw(st.sampled_from([False, True, {"type": "integer"}]))
    if schema.get("additionalProperties") is not False and draw(st.booleans()):
        schema["minProperties"] = draw(st.integers(0, 6))
    if draw(st.booleans()):
        schema |= {"title": "T", "description": "d"}
    return schema


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": draw(inner)}
    least = draw(st.integers(0, 3))
    if draw(st.booleans()):
        schema["minItems"] = least
    if draw(st.booleans()):
        schema["maxItems"] = least + draw(st.integers(0, 2))
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(inner, max_size=3))
    if draw(st.booleans()):
        schema = {"type": "array", "items": {"type": "integer"}, "minItems": least, "uniqueItems": True}
    return schema


def tagged(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return alternatives of which exactly one fits, as generators write them for classes with a tag."""
    made = []
    for number, schema in enumerate(schemas):
        tag = {"kind": {"const": f"k{number}"}}
        made.append(
            {**schema, "properties": schema["properties"] | tag, "required": [*schema["required"], "kind"]}
        )
    return {"oneOf": made}


def _compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        objects(inner),
        arrays(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda schemas: {"anyOf": schemas}),
        st.lists(objects(inner), min_size=1, max_size=3).map(tagged),
        inner.map(lambda schema: {"allOf": [schema]}),
        st.tuples(objects(LEAVES), numbers()).map(
            lambda pair: {
                "allOf": [{**pair[0], "additionalProperties": True}, {"properties": {"more": pair[1]}}]
            }
        ),
    )


SCHEMAS = st.recursive(LEAVES, _compound, max_leaves=8)
# A list, and a tree whose nodes need what may end: both refer to themselves.
NODES = st.sampled_from(
    [
        {"type": "object", "properties": {"node": {"$ref": "#/$defs/node"}, "n": {"type": "integer"}}},
        {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["next"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["children"],
        },
    ]
)
# Of a tool: an object, with or without definitions.
TOOL_SCHEMAS = st.one_of(
    objects(SCHEMAS),
    st.builds(
        lambda schema, node: {**schema, "$defs": {"node": node}}, objects(SCHEMAS, references=True), NODES
    ),
)
