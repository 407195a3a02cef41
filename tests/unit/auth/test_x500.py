"""Names as Java 17's X500Principal writes and reads them; every expected value was taken from it."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from zkpy.auth import der, x500


def element(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


def attribute(oid: str, value: bytes, tag: int = 0x0C) -> bytes:
    return element(0x30, element(6, bytes.fromhex(oid)) + element(tag, value))


def name(*relative_names: bytes) -> bytes:
    return element(0x30, b"".join(element(0x31, relative_name) for relative_name in relative_names))


CN, ORG, OU, EMAIL, UID = "550403", "55040a", "55040b", "2a864886f70d010901", "0992268993f22c640101"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("zk", "CN=zk"),
        ("", "CN="),
        (" a b ", "CN=\\ a b\\ "),
        ("\r", "CN=\\\r"),
        ("  ", "CN=\\ \\ "),
        ('a,b+c"d\\e<f>g;h=i#j', 'CN=a\\,b\\+c\\"d\\\\e\\<f\\>g\\;h\\=i\\#j'),
        ("a\0", "CN=a\\00"),
        ("Zürich 日本", "CN=Zürich 日本"),
        ("a/b.c:d'", "CN=a/b.c:d'"),
    ],
)
def test_values_are_escaped_as_java_does(value: str, text: str) -> None:
    assert x500.rfc2253_text(name(attribute(CN, value.encode()))) == text


def test_relative_names_come_in_reverse_order() -> None:
    encoded = name(attribute(ORG, b"y"), attribute(OU, b"x"), attribute(CN, b"zk"))
    assert x500.rfc2253_text(encoded) == "CN=zk,OU=x,O=y"


def test_an_empty_name_is_an_empty_text() -> None:
    assert x500.rfc2253_text(b"\x30\x00") == ""


def test_several_values_of_one_relative_name_keep_their_order() -> None:
    assert x500.rfc2253_text(name(attribute(CN, b"a") + attribute(OU, b"b"))) == "CN=a+OU=b"


def test_types_without_a_keyword_are_numbers_with_hex_values() -> None:
    encoded = name(attribute(EMAIL, b"a@b", 0x16), attribute(UID, b"u"))
    assert x500.rfc2253_text(encoded) == "UID=u,1.2.840.113549.1.9.1=#1603614062"


def test_string_types_that_java_does_not_write_as_text_are_hex() -> None:
    assert x500.rfc2253_text(name(attribute(CN, b"12", 0x12))) == "CN=#12023132"


def test_a_bmp_string_is_taken_for_utf8() -> None:
    """A quirk of Java that ids must share."""
    assert x500.rfc2253_text(name(attribute(CN, "a".encode("utf-16-be"), 0x1E))) == "CN=\\00a"


@pytest.mark.parametrize(
    "encoded",
    [
        b"\x31\x00",
        name(element(0x30, b"")),
        name(element(0x30, element(4, b"") + element(12, b""))),
        name(element(0x30, element(6, bytes.fromhex(CN)))),
    ],
)
def test_a_broken_name_is_refused(encoded: bytes) -> None:
    with pytest.raises(der.DerError):
        x500.rfc2253_text(encoded)


def test_the_subject_is_found_in_a_certificate() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "y"), x509.NameAttribute(NameOID.COMMON_NAME, "zk")]
    )
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), 1, start, start + dt.timedelta(1))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    assert x500.subject_of_certificate(certificate) == "CN=zk,O=y"


def test_a_version_1_certificate_has_its_subject_one_place_earlier() -> None:
    tbs = element(0x30, b"\x02\x01\x01" + b"\x30\x00" * 3 + name(attribute(CN, b"old")))
    assert x500.subject_of_certificate(element(0x30, tbs)) == "CN=old"


@pytest.mark.parametrize("tbs", ["3000", "3004020101a0", "30020500"])
def test_a_certificate_without_a_subject_is_refused(tbs: str) -> None:
    with pytest.raises(der.DerError):
        x500.subject_of_certificate(element(0x30, bytes.fromhex(tbs)))


VALID = [
    "",
    "CN=zk",
    "cn = zk , o=y",
    "CN=zk,OU=x,O=y",
    "CN=zk;O=y",
    "CN=a+OU=b",
    "CN=",
    "CN= \n",
    "CN=a=b",
    "CN=a#b",
    "1.2.3=x",
    "OID.2.5.4.3=x",
    "oid.2.5.4.3=x",
    "2.999.3=x",
    "1.2.99999999999=x",
    "CN=+O=x",
    "EMAILADDRESS=a@b",
    "CN=a\\,b",
    "CN=a\\ ",
    "CN=\\C3\\BCber",
    "CN=\\\\",
    "CN=\\\\\\,x",
    'CN="a,b+c"',
    'CN="a\\"b" ',
    'CN="\\2C"',
    "CN=#0c0141",
    "CN=#0c0141+O=x",
    "\tCN\t=x",
    "CN=\0",
]
INVALID = [
    " ",
    "zk",
    "CN",
    "XX=a",
    "=a",
    "CN=a,",
    "CN=a,,O=b",
    ",CN=a",
    "CN=a+",
    "+CN=a",
    "CN=a+b",
    "CN=a<b",
    'CN=a"b',
    "CN=\\",
    "CN=\\q",
    "CN=\\c",
    "CN=\\cg",
    'CN="a',
    'CN="a\\',
    'CN="a" b',
    'CN="\\ "',
    "CN=#",
    "CN=#0",
    "CN=#0g",
    "CN=#0c02",
    "1.+3=x",
    "1=x",
    "1.=x",
    "1..2=x",
    "3.1=x",
    "1.40=x",
    "1.-2=x",
    "1.2.999999999x=y",
    'CN="a,O=b',
]


@pytest.mark.parametrize("text", VALID)
def test_a_name_that_java_parses_is_valid(text: str) -> None:
    assert x500.is_valid_name(text)


@pytest.mark.parametrize("text", INVALID)
def test_a_name_that_java_rejects_is_invalid(text: str) -> None:
    assert not x500.is_valid_name(text)


@given(st.text(alphabet='CN=OU,;+"\\#0c1.4 <\n', max_size=24))
def test_every_text_is_valid_or_not_and_nothing_else(text: str) -> None:
    assert x500.is_valid_name(text) in (True, False)


@given(st.text(max_size=20))
def test_what_we_write_is_a_name_that_java_would_read(value: str) -> None:
    encoded = name(attribute(CN, value.replace("\r", "").encode(errors="replace")))
    assert x500.is_valid_name(x500.rfc2253_text(encoded))
