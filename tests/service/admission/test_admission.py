"""The bound on requests in flight, and the drain that ends them."""

from dub5.service.admission.admission import Admission


class Request:
    """Notes when the drain cuts it."""

    def __init__(self, name: int, cut: list[int]) -> None:
        self.name = name
        self._cut = cut

    def cut_for_drain(self) -> None:
        self._cut.append(self.name)


def test_a_drain_cuts_in_the_order_of_arrival() -> None:
    """Where several requests are cut at one instant their order is that of arrival, in every process."""
    admission, cut = Admission(100, 1), list[int]()
    requests = [Request(name, cut) for name in range(50)]
    for request in requests:
        admission.acquire(request)
    admission.release(requests[7])
    admission.cut_all()
    assert cut == [name for name in range(50) if name != 7]
