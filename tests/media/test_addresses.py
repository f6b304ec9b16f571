"""Which addresses and URLs may be fetched from."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_backend.media.addresses import is_allowed
from ernie_backend.media.sniff import MediaError
from ernie_backend.media.web_address import read_web_address

PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808", "::ffff:8.8.8.8"]
PRIVATE = [
    "127.0.0.1",
    "127.8.9.1",
    "10.0.0.1",
    "172.16.5.5",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "fd12::1",
    "::ffff:127.0.0.1",
    "64:ff9b::a00:1",
]
NEVER = [
    *("169.254.169.254", "169.254.0.7", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "224.0.0.1", "239.1.2.3", "ff02::1", "0.0.0.0", "0.1.2.3", "::", "255.255.255.255"),
    *("240.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "2001:db8::1", "2002:7f00:1::", "2001:0:1::1", "192.88.99.1"),
    *("::7f00:1", "fec0::1", "64:ff9b:1::1", "", "example.com", "1.2.3", "0x7f000001", "2130706433"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_allowed(address, allow_private=False) and is_allowed(address, allow_private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_only_when_allowed(address: str) -> None:
    assert not is_allowed(address, allow_private=False)
    assert is_allowed(address, allow_private=True)


@pytest.mark.parametrize("address", NEVER)
def test_never(address: str) -> None:
    assert not is_allowed(address, allow_private=False) and not is_allowed(address, allow_private=True)


@given(st.ip_addresses(v=4))
def test_an_address_within_another_counts_as_itself(address: ipaddress.IPv4Address) -> None:
    for private in (False, True):
        allowed = is_allowed(str(address), allow_private=private)
        mapped = ipaddress.IPv6Address(int(ipaddress.ip_address("::ffff:0:0")) + int(address))
        nat64 = ipaddress.IPv6Address(int(ipaddress.ip_address("64:ff9b::")) + int(address))
        assert is_allowed(str(mapped), allow_private=private) == is_allowed(str(nat64), allow_private=private) == allowed


def test_what_goes_over_the_wire() -> None:
    address = read_web_address("HTTPS://Bücher.Example.:8443/ä b".replace(" ", "") + "?q=ü&x=%20#part", (), any_port=False)
    assert (address.scheme, address.host, address.port) == ("https", "xn--bcher-kva.example", 8443)
    assert address.target == "/%C3%A4b?q=%C3%BC&x=%20" and address.host_header == "xn--bcher-kva.example:8443"
    assert read_web_address("http://[2606:2800::1]/", (), any_port=False).host_header == "[2606:2800::1]"
    assert read_web_address("http://a.com", (), any_port=False).target == "/"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://user:secret@a.com/", "user name"),
        ("http://a.com@b.com/", "user name"),
        ("http://a.com:22/", "port 22"),
        ("http://a.com:0/", "port 0"),
        ("http://a.com:99999/", "malformed"),
        ("http://a.com:x/", "malformed"),
        ("http:///path", "without a valid host"),
        ("http://[::1/", "malformed"),
        ("http://[fe80::1%25eth0]/", "without a valid host"),
        ("http://a.com\\@b.com/", "backslash"),
        ("http://a.com/\r\nX: y", "control character"),
        ("http://a.com/a b", "a space"),
        ("http://" + "a" * 64 + ".com/", "malformed"),
        ("http://a..com/", "malformed"),
        ("ftp://a.com/", "scheme"),
        ("gopher://a.com:80/", "scheme"),
        ("http://a.com/" + "a" * 9000, "more than 8192 characters"),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        read_web_address(url, (), any_port=False)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("a.com", True),
        ("A.com.", True),
        ("b.org", False),
        ("x.b.org", True),
        ("x.y.b.org", True),
        ("evil-b.org", False),
        ("c.net", False),
        ("x.c.net", True),
        ("a.com.evil.com", False),
    ],
)
def test_domains(host: str, allowed: bool) -> None:
    def read() -> object:
        return read_web_address(f"http://{host}/", ("a.com", ".b.org", "*.c.net"), any_port=False)

    if allowed:
        assert read()
    else:
        with pytest.raises(MediaError, match="not among the domains"):
            read()
