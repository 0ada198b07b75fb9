"""What does Python decide by sizes, and would it decide the same for other numbers of samples?

A comparison, or a value that depends on sizes alone, is asked again for other batches instead of
running the model again.
"""

from collections.abc import Callable
from typing import Any

from fxprune.torch.frontend.nests import leaves_of
from fxprune.torch.frontend.numbers import TracedNumber, plain_number

FEW = 2
"""A batch that is small and has several samples."""


def larger(batch: int) -> int:
    """A batch of another size, as it may be later."""
    return 4 * batch + 1


class Decisions:
    """What Python has made of the sizes of one run: which does another batch change?

    `batch` is the size of that of the run, 0 for none; it `is_alone` where no other size is the
    same.
    """

    def __init__(self) -> None:
        self.batch = 0
        self.is_alone = False
        self.lose_numbers = False
        """Whether some number of the example, of whatever size, has become Python's own."""
        self.lose_batch = False
        """Whether one of these may come from the batch, or several samples decide otherwise."""
        self.know_single = False
        """Whether a single sample decides otherwise than several."""

    def number_lost(self, *numbers: Any) -> None:
        """Python has made a number of its own out of some of the trace.

        Where no other size is that of the batch, only its multiples can come from it: those of
        other sizes stay what they are in the example.
        """
        self.lose_numbers = True
        plain = [plain_number(number) for number in leaves_of(numbers)]
        self.lose_batch |= not self.is_alone or any(
            not isinstance(n, int) or n % self.batch == 0 for n in plain
        )

    def size_compared(self, compare: Callable[[int, Any], Any], size: int, to: Any) -> None:
        """Python has compared a size, which may be that of the batch or a multiple of it."""
        if not self.batch or plain_number(size) % self.batch:
            return

        def at(number: Any, batch: int) -> Any:
            plain = plain_number(number)
            follows = isinstance(number, TracedNumber) and plain % self.batch == 0
            return plain // self.batch * batch if follows else plain

        self._decided(lambda batch: compare(at(size, batch), at(to, batch)))

    def value_asked(self, answer: Callable[[int], Any]) -> None:
        """Python has asked for a value that depends on sizes; `answer` says it for any batch."""
        self.lose_numbers = True
        self._decided(answer)

    def _decided(self, answer: Callable[[int], Any]) -> None:
        if not self.is_alone:
            self.lose_batch = True
            return
        try:
            batches = (1, FEW, self.batch, larger(self.batch))
            single, *several = [repr(_plain(answer(batch))) for batch in batches]
        except Exception:  # what is asked does not exist for such a batch
            self.lose_batch = True
            return
        self.lose_batch |= len(set(several)) > 1
        self.know_single |= single != several[0]


def _plain(answer: Any) -> Any:
    """An answer without arrays, which do not show all that they hold."""
    return answer.tolist() if hasattr(answer, "tolist") else answer
