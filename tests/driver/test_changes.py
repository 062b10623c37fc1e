"""A change to Prefect is made only where it fits."""

import pytest
import structlog

from flowgroup.driver.changes import Changes


@pytest.mark.parametrize(
    "shape",
    [
        "prefect.flow_engine:_send_heartbeats(engine, of, another, version)",
        "prefect.flow_engine:gone",
        "prefect.flow_engine:FlowRunEngine.gone",
        "prefect.gone:anything",
    ],
)
def test_what_does_not_fit_is_left_out_and_said(shape: str) -> None:
    changes: Changes[object] = Changes()

    @changes.expects("prefect.flow_engine:_send_heartbeats(engine, join_on_exit)")
    def fits() -> None:
        """Stands on what is there."""

    @changes.expects("prefect.flow_engine:run_flow", shape)
    def misfit() -> None:
        raise AssertionError("must not be made")

    with structlog.testing.capture_logs() as said:
        assert changes.fitting() == (fits,)
        assert changes.fitting() == (fits,)
    assert changes.all() == (fits, misfit)
    assert [(line["event"], line["change"]) for line in said] == [("prefect_left_as_it_is", "misfit")]
