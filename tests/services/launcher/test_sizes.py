"""Memory sizes as people write them."""

import pytest

from tokenwire_services.launcher.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512MB", 512_000_000),
        ("512mb", 512_000_000),
        ("4GiB", 4 << 30),
        ("4 gib", 4 << 30),
        ("1.5G", 1_500_000_000),
        ("64Ki", 65536),
        ("2T", 2 * 10**12),
        ("100B", 100),
    ],
)
def test_a_size_is_read_with_its_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "0", "0.1", "4XB", "4GB!", "1e9", "four"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="write it like 512MB"):
        parse_size(text)
