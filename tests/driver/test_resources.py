"""What tags ask for."""

import pytest

from flowgroup.driver.resources import asked


def test_tags_that_ask_for_resources_are_read_and_others_are_left_alone() -> None:
    tags = {"nightly", "dask-resource:GPU=1", "dask-resource:memory=2.5", "dask-resource:license"}
    assert asked(tags) == {"GPU": 1.0, "memory": 2.5, "license": 1.0}
    assert asked({"gpu", "resource:GPU=1"}) == {}


@pytest.mark.parametrize("tag", ["dask-resource:GPU=one", "dask-resource:GPU=0", "dask-resource:GPU=inf"])
def test_a_tag_that_cannot_be_read_is_named(tag: str) -> None:
    with pytest.raises(ValueError, match=tag):
        asked({tag})
