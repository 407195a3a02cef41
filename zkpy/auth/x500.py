"""X.500 names as Java writes and reads them: the ids of scheme x509.

Owns: the RFC 2253 text of a name (`X500Principal.getName()`), the subject of a certificate, and the rule
which texts are names (`new X500Principal(text)` does not throw). Does not know: TLS, trust, providers.

Ids are compared as plain strings, so the text must be Java's to the character: relative names in reverse
order, nine keywords in capitals, every other attribute type as a dotted number with its value in hex.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkpy.auth import der, java_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

_RFC2253_KEYWORDS = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}
# Read, though never written.
_OTHER_KEYWORDS = {
    "S", "T", "IP", "DNQ", "DNQUALIFIER", "SURNAME", "GIVENNAME", "INITIALS", "GENERATION",
    "EMAIL", "EMAILADDRESS", "SERIALNUMBER",
}  # fmt: skip
_KEYWORDS = frozenset(_RFC2253_KEYWORDS.values()) | _OTHER_KEYWORDS

# UTF8String, PrintableString, T61String, IA5String, GeneralString, BMPString: the types written as text.
_TEXT_TAGS = frozenset({0x0C, 0x13, 0x14, 0x16, 0x1B, 0x1E})
_ESCAPED_WHEN_WRITTEN = frozenset(',=+<>#;"\\')
_ESCAPABLE = frozenset(',=\n+<>#;\\" ')
_ESCAPABLE_IN_QUOTES = frozenset(',=\n+<>#;\\"')
_NOT_PLAIN = frozenset(',+<>;"')
_TERMINATORS = frozenset("+,;")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_BLANKS = "".join(map(chr, range(33)))  # what Java's trim() removes


def subject_of_certificate(certificate: bytes) -> str:
    """The subject of a DER certificate as Java's RFC 2253 text.

    Raises:
        der.DerError: not a certificate.
    """
    body = der.read_only_element(certificate, der.SEQUENCE)
    tbs = der.read_elements(der.read_element(body.content)[0].content)
    has_version = bool(tbs) and tbs[0].tag == 0xA0
    index = 5 if has_version else 4  # [version,] serial, signature algorithm, issuer, validity, subject
    if len(tbs) <= index:
        raise der.DerError("certificate without a subject")
    return rfc2253_text(tbs[index].encoded)


def rfc2253_text(name: bytes) -> str:
    """The text of a DER-encoded Name."""
    relative_names = der.read_elements(der.read_only_element(name, der.SEQUENCE).content)
    return ",".join(_relative_name_text(relative_name) for relative_name in reversed(relative_names))


def _relative_name_text(relative_name: der.Element) -> str:
    return "+".join(_attribute_text(attribute) for attribute in der.read_elements(relative_name.content))


def _attribute_text(attribute: der.Element) -> str:
    parts = der.read_elements(attribute.content)
    if len(parts) != 2 or parts[0].tag != der.OBJECT_IDENTIFIER:
        raise der.DerError("attribute is not a pair of type and value")
    oid = der.object_identifier(parts[0].content)
    keyword = _RFC2253_KEYWORDS.get(oid)
    if keyword is None:
        return f"{oid}=#{parts[1].encoded.hex()}"
    if parts[1].tag not in _TEXT_TAGS:
        return f"{keyword}=#{parts[1].encoded.hex()}"
    # Compat: Java takes the bytes for UTF-8 whatever the string type says, BMPString included.
    return f"{keyword}={_escape(parts[1].content.decode(errors='replace'))}"


def _escape(value: str) -> str:
    escaped = "".join(_escape_character(character) for character in value)
    lead = len(escaped) - len(escaped.lstrip(" \r"))
    core = escaped.strip(" \r")
    trail = escaped[lead + len(core) :]
    return _backslash_each(escaped[:lead]) + core + _backslash_each(trail)


def _escape_character(character: str) -> str:
    if character == "\0":
        return "\\00"
    return f"\\{character}" if character in _ESCAPED_WHEN_WRITTEN else character


def _backslash_each(blanks: str) -> str:
    return "".join(f"\\{blank}" for blank in blanks)


def is_valid_name(text: str) -> bool:
    """Whether Java can parse `text` as a name: RFC 1779, 2253 and 4514 syntax mixed; empty is a name too."""
    return not text or all(
        _is_valid_attribute(attribute)
        for relative_name in _split_name(text)
        for attribute in _split_relative_name(relative_name)
    )


def _split_name(text: str) -> Iterator[str]:
    start = search = quotes = 0
    for end, character in enumerate(text):
        if character not in ",;":
            continue
        quotes += _count_quotes(text, search, end)
        if quotes != 1 and not _is_escaped(text, search, end):
            yield text[start:end]
            start, quotes = end + 1, 0
        search = end + 1
    yield text[start:]


def _split_relative_name(text: str) -> Iterator[str]:
    start = search = quotes = 0
    for end, character in enumerate(text):
        if character != "+":
            continue
        quotes += _count_quotes(text, search, end)
        if end and text[end - 1] != "\\" and quotes != 1:
            yield text[start:end]
            start, quotes = end + 1, 0
        search = end + 1
    yield text[start:]


def _count_quotes(text: str, start: int, end: int) -> int:
    return sum(text[i] == '"' and (i == start or text[i - 1] != "\\") for i in range(start, end))


def _is_escaped(text: str, search: int, end: int) -> bool:
    if not text[:end].endswith("\\"):
        return False
    if text[:end].endswith("\\\\"):
        # Compat: all backslashes since the last separator are counted, not only those right before it.
        return text.count("\\", search, end) % 2 == 1
    return True


def _is_valid_attribute(text: str) -> bool:
    keyword, equals, value = text.partition("=")
    if not equals or not _is_attribute_type(keyword.upper().strip(_BLANKS)):
        return False
    value = value.lstrip(" \n")
    if value.startswith("#"):
        return _is_hex_value(value[1:])
    if value.startswith('"'):
        return _is_quoted_value(value[1:])
    return _is_plain_value(value)


def _is_attribute_type(keyword: str) -> bool:
    if keyword in _KEYWORDS:
        return True
    dotted = keyword.removeprefix("OID.")
    if not "0" <= dotted[:1] <= "9":
        return False
    arcs = [_arc(part) for part in dotted.split(".")]
    if len(arcs) < 2 or min(arcs) < 0:
        return False
    return arcs[0] <= 2 and (arcs[0] == 2 or arcs[1] <= 39)


def _arc(text: str) -> int:
    """The number, -1 if it is none."""
    value = java_rules.parse_int(text) if len(text) <= 9 else (int(text) if text.isdecimal() else None)
    return -1 if value is None else value


def _is_hex_value(text: str) -> bool:
    end = next((i for i, character in enumerate(text) if character in _TERMINATORS), len(text))
    digits = text[:end]
    if not digits or len(digits) % 2 or not _HEX_DIGITS.issuperset(digits):
        return False
    try:
        der.read_only_element(bytes.fromhex(digits))
    except der.DerError:
        return False
    return True


def _is_quoted_value(text: str) -> bool:
    position = 0
    while text[position : position + 1] != '"':
        width = _character_width(text, position, _ESCAPABLE_IN_QUOTES)
        if width == 0:
            return False
        position += width
    return not text[position + 1 :].strip(" \n")


def _is_plain_value(text: str) -> bool:
    position = 0
    while position < len(text) and (position == 0 or text[position] not in _TERMINATORS):
        width = _character_width(text, position, _ESCAPABLE)
        if width == 0 or (width == 1 and text[position] in _NOT_PLAIN):
            return False
        position += width
    return True


def _character_width(text: str, position: int, escapable: frozenset[str]) -> int:
    """Length of the possibly escaped character at `position`, 0 if there is none or its escape is wrong."""
    character, following = text[position : position + 1], text[position + 1 : position + 2]
    if character != "\\":
        return len(character)
    if following and following in _HEX_DIGITS:
        second = text[position + 2 : position + 3]
        return 3 if second and second in _HEX_DIGITS else 0
    return 2 if following and following in escapable else 0
