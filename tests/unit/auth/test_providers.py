"""Providers: ids earned by add_auth, validity of ACL ids, matching; the registry and enforcement."""

from __future__ import annotations

import pytest

from zkpy.auth.providers import (
    AuthCloseSilently,
    AuthConfigError,
    AuthEnforcement,
    AuthFailed,
    AuthProvider,
    AuthSettings,
    DigestProvider,
    EnsembleProvider,
    IpProvider,
    KeyProvider,
    PeerInfo,
    ProviderRegistry,
    SaslProvider,
    X509Provider,
)
from zkpy_protocol.records import Id

PEER = PeerInfo("127.0.0.1")
BOB = "bob:fyVmFCwVbTJYrznoSu1koqYEYF0="
PACKAGE = "org.apache.zookeeper.server.auth"

# --- ip ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "acl_id",
    [
        "10.1.2.3", "10.1.2.3/0", "10.1.2.3/32", "10.1.2.3/+8", "10.1.2.3/-0", "010.1.2.3", "+1.2.3.-0",
        "::", "::1", "1::", "::/0", "::1/128", "1:2:3:4:5:6:7:8", "2001:DB8::a0", "0000::1", "::-1", "1::2:3:4:5:6:7",
    ],
)  # fmt: skip
def test_an_address_with_bits_is_a_valid_ip_id(acl_id: str) -> None:
    assert IpProvider().is_valid(acl_id)


@pytest.mark.parametrize(
    "acl_id",
    [
        "", "/", "localhost", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.", "1.2.3.x", "1.2.3.-1", " 1.2.3.4",
        "1.2.3.4/", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/x", "1.2.3.4/8/8", "1.2.3.4/99999999999",
        ":", ":::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7::8", "1::2::3", ":1::2", "1::2:",
        "::12345", "::g", "::1/129", "::ffff:1.2.3.4", "fe80::1%eth0",
    ],
)  # fmt: skip
def test_anything_else_is_an_invalid_ip_id(acl_id: str) -> None:
    assert not IpProvider().is_valid(acl_id)
    assert not IpProvider().matches("127.0.0.1", acl_id)


@pytest.mark.parametrize(
    ("caller", "acl_id", "expected"),
    [
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.4", False),
        ("10.1.2.3", "10.1.2.4/31", False),
        ("10.1.2.3", "10.1.2.2/31", True),
        ("10.1.2.3", "10.9.9.9/8", True),
        ("10.1.2.3", "11.1.2.3/8", False),
        ("10.1.2.3", "0.0.0.0/0", True),
        ("10.1.2.3", "::/0", False),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("0:0:0:0:0:0:0:1", "::/127", True),
        ("0:0:0:0:0:0:0:1", "127.0.0.1", False),
        ("2001:db8:0:0:0:0:0:1", "2001:db8::/32", True),
        ("fe80:0:0:0:0:0:0:1%eth0", "fe80::/10", False),  # Java cannot parse a scope id
    ],
)
def test_ip_ids_match_under_the_mask_within_one_family(caller: str, acl_id: str, expected: bool) -> None:
    assert IpProvider().matches(caller, acl_id) is expected


def test_add_auth_ip_gives_the_peers_address_whatever_the_data() -> None:
    assert IpProvider().handle_authentication(None, PEER) == [Id("ip", "127.0.0.1")]
    assert IpProvider().handle_authentication(b"1.2.3.4", PEER) == [Id("ip", "127.0.0.1")]


# --- digest -----------------------------------------------------------------------------------------------


def test_a_digest_id_is_the_user_and_the_hash_of_user_and_password() -> None:
    assert DigestProvider().handle_authentication(b"bob:secret", PEER) == [Id("digest", BOB)]


@pytest.mark.parametrize(
    ("auth", "digest"),
    [
        (b"bob", "bob:SBgazSKz7a68ikR4aKfffOYpkgo="),
        (b"", ":2jmj7l5rSw0yVb/vlWAYkK/YBwk="),
        (b"a:b:c", "a:cLzgnoJ6mP5qz3w+mwvPE2vDgu0="),
    ],
)
def test_a_digest_needs_no_password_and_keeps_later_colons_in_it(auth: bytes, digest: str) -> None:
    """The values are what Apache 3.9.5 prints for these texts."""
    assert DigestProvider().handle_authentication(auth, PEER) == [Id("digest", digest)]


def test_digest_without_data_is_refused() -> None:
    with pytest.raises(AuthFailed):
        DigestProvider().handle_authentication(None, PEER)


def test_bytes_that_are_no_text_are_hashed_with_replacement_characters() -> None:
    expected = DigestProvider().generate_digest("b�:x")
    assert DigestProvider().handle_authentication(b"b\xff:x", PEER) == [Id("digest", expected)]


def test_the_super_digest_earns_an_extra_id() -> None:
    provider = DigestProvider(super_digest=BOB)
    assert provider.handle_authentication(b"bob:secret", PEER) == [Id("super", ""), Id("digest", BOB)]
    assert Id("super", "") not in provider.handle_authentication(b"bob:wrong", PEER)


@pytest.mark.parametrize("algorithm", ["SHA-256", "sha-256"])
def test_the_digest_algorithm_has_its_java_name(algorithm: str) -> None:
    ids = DigestProvider(algorithm).handle_authentication(b"bob:secret", PEER)
    assert ids == [Id("digest", "bob:huAluaVu3uER4LIpielGv9Qqk5x3YVDr6I2R/mXf2wE=")]


def test_an_unknown_digest_algorithm_is_refused_with_its_key() -> None:
    with pytest.raises(AuthConfigError, match=r"DigestAuthenticationProvider\.digestAlg=MD9.*SHA-256"):
        DigestProvider("MD9")


@pytest.mark.parametrize(
    ("acl_id", "valid"),
    [("a:b", True), (":b", True), ("a:b:", True), ("a:", False), ("a", False), ("", False), ("a:b:c", False)],
)
def test_a_digest_acl_id_has_two_parts_in_java_s_eyes(acl_id: str, valid: bool) -> None:
    assert DigestProvider().is_valid(acl_id) is valid


def test_digest_ids_match_exactly_and_name_their_user() -> None:
    provider = DigestProvider()
    assert provider.matches(BOB, BOB)
    assert not provider.matches(BOB, BOB.lower())
    assert provider.user_name(BOB) == "bob"


# --- sasl -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acl_id", "valid"),
    [
        ("bob", True), ("", True), ("a/b/c", True), ("zk/host@REALM", True), ("zk@REALM", True), ("@", True), ("/@", True),
        ("a@b@c", False), ("a/b/c@R", False), ("a@R/x", False),
    ],
)  # fmt: skip
def test_a_sasl_acl_id_is_a_kerberos_name(acl_id: str, valid: bool) -> None:
    assert SaslProvider().is_valid(acl_id) is valid


def test_sasl_ids_match_exactly_or_for_super_or_for_the_common_user() -> None:
    assert SaslProvider().matches("bob", "bob")
    assert SaslProvider().matches("super", "bob")
    assert not SaslProvider().matches("bob", "super")
    assert not SaslProvider().matches("bob", "readers")
    assert SaslProvider("readers").matches("bob", "readers")


def test_sasl_is_no_add_auth_scheme() -> None:
    with pytest.raises(AuthFailed, match="opcode 102"):
        SaslProvider().handle_authentication(b"x", PEER)


# --- x509 -------------------------------------------------------------------------------------------------

SECURE_PEER = PeerInfo("127.0.0.1", "CN=zk,O=y")


def test_a_verified_certificate_earns_its_subject() -> None:
    assert X509Provider().handle_authentication(None, SECURE_PEER) == [Id("x509", "CN=zk,O=y")]


def test_without_a_certificate_x509_is_refused() -> None:
    with pytest.raises(AuthFailed):
        X509Provider().handle_authentication(b"CN=zk,O=y", PEER)


def test_the_x509_super_user_gets_an_extra_id_that_carries_its_name() -> None:
    provider = X509Provider("CN=zk,O=y")
    ids = provider.handle_authentication(None, SECURE_PEER)
    assert ids == [Id("super", "CN=zk,O=y"), Id("x509", "CN=zk,O=y")]
    assert provider.matches("CN=zk,O=y", "CN=other")
    assert not provider.matches("CN=other", "CN=zk,O=y")


def test_x509_acl_ids_are_parsable_names_that_match_as_strings() -> None:
    provider = X509Provider()
    assert provider.is_valid("CN=zk,O=y")
    assert not provider.is_valid("zk")
    assert provider.matches("CN=zk", "CN=zk")
    assert not provider.matches("CN=zk", "cn=zk")


# --- ensemble ---------------------------------------------------------------------------------------------


def test_the_right_ensemble_name_passes_and_earns_no_id() -> None:
    provider = EnsembleProvider("east, west")
    assert provider.handle_authentication(b"west", PEER) == []
    assert provider.success_count == 1


def test_a_wrong_ensemble_name_closes_without_a_reply() -> None:
    provider = EnsembleProvider("east")
    with pytest.raises(AuthCloseSilently, match=r"127\.0\.0\.1 wants ensemble 'no\\nrth'"):
        provider.handle_authentication(b"no\nrth", PEER)
    assert provider.fail_count == 1


@pytest.mark.parametrize(("names", "auth"), [("east", b""), ("east", None), (None, b"east")])
def test_without_a_name_on_either_side_the_ensemble_is_not_checked(
    names: str | None, auth: bytes | None
) -> None:
    provider = EnsembleProvider(names)
    assert provider.handle_authentication(auth, PEER) == []
    assert provider.skip_count == 1


def test_ensemble_is_useless_in_acls() -> None:
    assert not EnsembleProvider("east").is_valid("east")
    assert not EnsembleProvider("east").matches("east", "east")


# --- key --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "auth", "accepted"),
    [
        (None, b"anything", True),
        (b"7", b"21", True),
        (b"7", b"-21", True),
        (b"7", b"22", False),
        (b"0", b"22", True),
        (b"x", b"22", False),
        (b"7", b"x", False),
        (b"", b"7", False),
        (b"7", None, False),
    ],
)
def test_the_key_provider_wants_a_multiple_of_the_key(
    key: bytes | None, auth: bytes | None, accepted: bool
) -> None:
    provider = KeyProvider(lambda: key)
    if accepted:
        assert provider.handle_authentication(auth, PEER) == [Id("key", "")]
    else:
        with pytest.raises(AuthFailed):
            provider.handle_authentication(auth, PEER)


def test_key_ids_are_all_valid_and_match_exactly() -> None:
    provider = KeyProvider(lambda: None)
    assert provider.is_valid("")
    assert provider.matches("", "")
    assert not provider.matches("", "7")


# --- all --------------------------------------------------------------------------------------------------

ALL: list[AuthProvider] = [
    IpProvider(), DigestProvider(), SaslProvider(), X509Provider(), EnsembleProvider(), KeyProvider(lambda: None),
]  # fmt: skip


def test_auth_expands_to_digest_sasl_x509_and_key_ids_only() -> None:
    assert [provider.scheme for provider in ALL if provider.is_authenticated] == [
        "digest",
        "sasl",
        "x509",
        "key",
    ]


def test_the_user_of_most_ids_is_the_id() -> None:
    assert [provider.user_name("u:x") for provider in ALL] == ["u:x", "u", "u:x", "u:x", "u:x", "u:x"]


# --- registry ---------------------------------------------------------------------------------------------


def test_ip_and_digest_are_loaded_by_default() -> None:
    registry = ProviderRegistry.from_config(AuthSettings())
    assert registry.schemes() == ["digest", "ip"]
    assert registry.get("digest") is not None
    assert registry.get("world") is None
    assert registry.get(None) is None


def test_digest_can_be_disabled_and_a_secure_port_brings_x509() -> None:
    settings = AuthSettings(digest_enabled=False, has_secure_port=True)
    assert ProviderRegistry.from_config(settings).schemes() == ["ip", "x509"]


def test_the_known_java_classes_are_built_in() -> None:
    names = ["SASL", "X509", "Digest", "IP", "Ensemble", "Key"]
    classes = {str(i): f"{PACKAGE}.{name}AuthenticationProvider" for i, name in enumerate(names)}
    registry = ProviderRegistry.from_config(AuthSettings(provider_classes=classes))
    assert registry.schemes() == ["digest", "ensemble", "ip", "key", "sasl", "x509"]


@pytest.mark.parametrize(
    "java_class", ["com.example.Mine", f"{PACKAGE}.Mine", "IPAuthenticationProvider", ""]
)
def test_an_unknown_class_is_refused_with_its_key_and_the_known_ones(java_class: str) -> None:
    with pytest.raises(AuthConfigError, match=r"authProvider\.1=.*IPAuthenticationProvider"):
        ProviderRegistry.from_config(AuthSettings(provider_classes={"1": java_class}))


def test_the_settings_reach_their_providers() -> None:
    settings = AuthSettings(
        provider_classes={
            "1": f"{PACKAGE}.SASLAuthenticationProvider",
            "2": f"{PACKAGE}.EnsembleAuthenticationProvider",
            "3": f"{PACKAGE}.KeyAuthenticationProvider",
        },
        super_digest=BOB,
        let_any_sasl_user_do="readers",
        x509_super_user="CN=zk,O=y",
        ensemble_auth_name="east",
        has_secure_port=True,
    )
    registry = ProviderRegistry.from_config(settings, read_key=lambda: b"7")

    def get(scheme: str) -> AuthProvider:
        provider = registry.get(scheme)
        assert provider is not None
        return provider

    assert get("digest").handle_authentication(b"bob:secret", PEER)[0] == Id("super", "")
    assert get("sasl").matches("bob", "readers")
    assert get("x509").matches("CN=zk,O=y", "CN=x")
    with pytest.raises(AuthCloseSilently):
        get("ensemble").handle_authentication(b"west", PEER)
    with pytest.raises(AuthFailed):
        get("key").handle_authentication(b"8", PEER)


def test_without_a_tree_the_key_provider_accepts_everybody() -> None:
    settings = AuthSettings(provider_classes={"1": f"{PACKAGE}.KeyAuthenticationProvider"})
    provider = ProviderRegistry.from_config(settings).get("key")
    assert provider is not None
    assert provider.handle_authentication(b"8", PEER) == [Id("key", "")]


# --- enforcement ------------------------------------------------------------------------------------------

REGISTRY = ProviderRegistry([IpProvider(), DigestProvider(), SaslProvider()])


def test_nothing_is_enforced_by_default() -> None:
    enforcement = AuthEnforcement.from_config(AuthSettings(enforce_schemes=["digest"]), REGISTRY)
    assert enforcement.allows([])
    assert not enforcement.is_enabled
    assert not enforcement.is_sasl_required


def test_enforcement_wants_an_id_of_one_of_the_schemes() -> None:
    settings = AuthSettings(enforce_enabled=True, enforce_schemes=[" digest", "sasl "])
    enforcement = AuthEnforcement.from_config(settings, REGISTRY)
    assert enforcement.is_enabled
    assert enforcement.is_sasl_required
    assert not enforcement.allows([Id("ip", "127.0.0.1")])
    assert enforcement.allows([Id("ip", "127.0.0.1"), Id("digest", BOB)])


def test_session_require_client_sasl_auth_is_enforcement_of_sasl_alone() -> None:
    settings = AuthSettings(session_require_sasl=True, enforce_enabled=True, enforce_schemes=["digest"])
    enforcement = AuthEnforcement.from_config(settings, REGISTRY)
    assert enforcement.is_sasl_required
    assert not enforcement.allows([Id("digest", BOB)])
    assert enforcement.allows([Id("sasl", "bob")])


def test_enforcement_without_schemes_is_a_start_up_error() -> None:
    with pytest.raises(AuthConfigError, match=r"enforce\.auth\.schemes must name"):
        AuthEnforcement.from_config(AuthSettings(enforce_enabled=True, enforce_schemes=["", " "]), REGISTRY)


def test_an_enforced_scheme_must_be_loaded() -> None:
    registry = ProviderRegistry([IpProvider()])
    with pytest.raises(AuthConfigError, match=r"sessionRequireClientSASLAuth: scheme sasl.*loaded: ip"):
        AuthEnforcement.from_config(AuthSettings(session_require_sasl=True), registry)
