"""The catalogue of named sizes, and amounts of memory."""

from pathlib import Path

import pytest

from flowgroup.edge.kubernetes.sizes import Size, Sizes, bytes_of
from flowgroup.errors import Refused


@pytest.mark.parametrize(
    ("text", "suffix", "said"),
    [
        ("{", ".json", "cannot read the sizes"),
        ('{"a": {"cpus": 1}}', ".json", r"a\.cpus"),
        ('{"a": {"memory": "lots"}}', ".json", r"a\.memory"),
        ("[a]\ncpu = 'all'\n", ".toml", r"a\.cpu"),
    ],
)
def test_a_wrong_catalogue_is_refused_by_size_and_field(tmp_path: Path, text: str, suffix: str, said: str) -> None:
    file = tmp_path / f"sizes{suffix}"
    file.write_text(text)
    with pytest.raises(Refused, match=said):
        Sizes.read(file)


def test_a_catalogue_is_json_or_toml_with_names_as_kubernetes_writes_them_or_as_we_do(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": {"cpu": 2, "nodeSelector": {"x": "y"}, "ephemeralStorage": "1Gi"}}')
    (tmp_path / "a.toml").write_text('[a]\ncpu = "2"\nephemeral_storage = "1Gi"\nnode_selector = {x = "y"}\n')
    one, two = (Sizes.read(tmp_path / name).size("a", of="it") for name in ("a.json", "a.toml"))
    assert one == two == Size(cpu="2", node_selector={"x": "y"}, ephemeral_storage="1Gi")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 * 1024**3),
        ("2Gi", 2 * 1024**3),
        ("2G", 2 * 10**9),
        ("1.5 kB", 1500),
        ("512Mi", 512 * 1024**2),
        ("7", 7),
    ],
)
def test_amounts_of_memory_as_dask_and_as_kubernetes_write_them(text: str, size: int) -> None:
    assert bytes_of(text) == size
