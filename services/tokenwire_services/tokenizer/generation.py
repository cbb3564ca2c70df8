"""One sample's output on its way from token IDs to text, stop strings and tool calls found.

    token → Detokenizer → StopStrings → OutputParser → Outbox

A sample ends once, by whatever comes first: a stop string, the engine's finish event, an error, or the
peer. Afterwards nothing more goes out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tokenwire.v1 import engine_pb2, generation_pb2, tokenizer_pb2
from tokenwire_services.tokenizer.detokenizer import Detokenizer
from tokenwire_services.tokenizer.logprobs import TokenLogprobs
from tokenwire_services.tokenizer.outbox import Finish
from tokenwire_services.tokenizer.parsers.base import CallArguments, CallBegin, OutputParser, Piece, Reasoning
from tokenwire_services.tokenizer.parsers.choose import make_call_id
from tokenwire_services.tokenizer.plain_text import PlainText
from tokenwire_services.tokenizer.samples import Samples
from tokenwire_services.tokenizer.stop_strings import StopStrings

_ToolCallDelta = tokenizer_pb2.ToolCallDelta
_NO_TOKEN = -1


@dataclass(slots=True)
class Generation:
    """The state of one sample's output."""

    samples: Samples
    """The request's, of which this is one; whoever uses this holds them."""
    detokenizer: Detokenizer
    index: int = 0
    """Of this sample."""
    in_details: bool = False
    """Whether text goes out in details, together with what it was made of, rather than in columns."""
    stop_strings: StopStrings | None = None
    parser: OutputParser | None = None
    make_call_id: Callable[[], str] = make_call_id
    hidden_token_ids: frozenset[int] = frozenset()
    """Tokens that the text goes without."""
    return_token_ids: bool = False
    include_stop_token: bool = False
    """Whether the text of the token that ended the generation belongs to the output."""
    min_tokens: int = 0
    """Tokens within which no stop string counts."""
    logprobs: TokenLogprobs | None = None
    """Set when the request asked for log-probabilities."""
    finished: bool = field(default=False, init=False)
    _plain: PlainText | None = field(init=False)
    """Set where nothing but text was asked for, and nothing is looked for in it."""
    _num_pushed: int = field(default=0, init=False)
    _unsent: list[int] = field(default_factory=list, init=False)
    """Tokens received with which nothing has gone out."""
    _num_calls: int = field(default=0, init=False)
    _stop_token_id: int = field(default=_NO_TOKEN, init=False)

    def __post_init__(self) -> None:
        looks = self.stop_strings is not None or self.parser is not None or bool(self.hidden_token_ids)
        is_plain = not (looks or self.in_details or self.logprobs is not None)
        samples, whole_tokens = self.samples, self.detokenizer.whole_tokens
        self._plain = PlainText(samples.outbox, samples.slot, whole_tokens) if is_plain else None

    @property
    def num_tokens(self) -> int:
        """Tokens received."""
        return self._num_pushed if self._plain is None else self._num_pushed + self._plain.num_tokens

    @property
    def plain(self) -> PlainText | None:
        """What may be given the next tokens instead, until it does not take one or the end is announced."""
        is_ending = self.finished or self._stop_token_id != _NO_TOKEN
        return None if self._unsent or is_ending else self._plain

    def expect_stop(self, stop_token_id: int) -> None:
        """Of the tokens about to come, the last one is this one, and ends the generation."""
        if not self.include_stop_token:
            self._stop_token_id = stop_token_id

    def push(self, token_id: int) -> None:
        """Take the next token. It may end the request: see `finished`."""
        self._num_pushed += 1
        self._unsent.append(token_id)
        if token_id == self._stop_token_id:
            return
        if self._plain is not None:
            text = self.detokenizer.push(token_id)
            if text:
                self.samples.outbox.add_text(self.samples.slot, text, self._unsent)
                self._unsent = []
            return
        if self.logprobs is not None:
            self.logprobs.take(token_id)
        if token_id in self.hidden_token_ids:
            return
        text = self.detokenizer.push(token_id)
        if text is None:
            return
        if self.stop_strings is not None:
            text = self._watch(self.stop_strings, text)
            if self.stop_strings.matched is not None:
                self._end(text, Finish(generation_pb2.FINISH_REASON_STOP))
                return
        if text:
            self._write(text)

    def replay(self, token_ids: Sequence[int]) -> None:
        """Take tokens whose output the peer has, before anything else.

        What they become goes out as ever: that it is not heard is the caller's to see to.
        """
        logprobs, self.logprobs = self.logprobs, None  # they do not come again
        for token_id in token_ids:
            if not self.finished:
                self.push(token_id)
        self.logprobs = logprobs
        self._unsent.clear()

    def end(self, event: engine_pb2.SessionResponse.FinishEvent) -> None:
        """The engine ended the sample, or all of the request's; nothing happens when it has ended."""
        if self.finished:
            return
        text = self.detokenizer.flush()
        if self.stop_strings is not None:
            if text:
                text = self._watch(self.stop_strings, text)
            text += self.stop_strings.flush()
        stop_token_id = event.stop_token_id if event.HasField("stop_token_id") else None
        self._end(text, Finish(event.reason, stop_token_id=stop_token_id))

    def cancel(self) -> None:
        """The peer ended the request."""
        self._end("", Finish(generation_pb2.FINISH_REASON_CANCELLED))

    def _watch(self, stop_strings: StopStrings, text: str) -> str:
        """Look for stop strings in new text; what is now known to be output."""
        if self.num_tokens <= self.min_tokens:
            return stop_strings.pass_over(text)
        return stop_strings.push(text)

    def _end(self, text: str, finish: Finish) -> None:
        if self.finished:
            return
        self.finished = True
        if text:
            self._write(text)
        if self.parser is not None:
            self._write_pieces(self.parser.flush())
        if self._unsent or self.logprobs:
            self._send("", [])
        if self.stop_strings is not None and self.stop_strings.matched is not None:
            finish.reason, finish.stop_string = generation_pb2.FINISH_REASON_STOP, self.stop_strings.matched
        if self._num_calls and finish.reason == generation_pb2.FINISH_REASON_STOP:
            finish.reason = generation_pb2.FINISH_REASON_TOOL_CALLS
        self.samples.report_prompt()
        self.samples.finish(self.index, finish)

    def _write(self, text: str) -> None:
        if self.parser is not None:
            self._write_pieces(self.parser.push(text))
        else:
            self._send(text, [])

    def _write_pieces(self, pieces: Sequence[Piece]) -> None:
        """Send the pieces that a token completed: in one message, so that a peer has all of them or none."""
        text, reasoning, calls = "", "", []
        for piece in pieces:
            match piece:
                case str():
                    text += piece
                case Reasoning(thought):
                    reasoning += thought
                case CallBegin(name):
                    self._num_calls += 1
                    calls.append(self._call_delta(id=self.make_call_id(), name=name))
                case CallArguments(arguments):
                    calls.append(self._call_delta(arguments_delta=arguments))
        if text or reasoning or calls:
            self._send(text, calls, reasoning)

    def _call_delta(self, id: str = "", name: str = "", arguments_delta: str = "") -> _ToolCallDelta:  # noqa: A002
        return _ToolCallDelta(index=self._num_calls - 1, id=id, name=name, arguments_delta=arguments_delta)

    def _send(self, text: str, tool_calls: Sequence[_ToolCallDelta], reasoning: str = "") -> None:
        """Put text, reasoning and tool calls into the outbox, with the tokens behind them.

        All in one detail where details were asked for; otherwise text and tokens are a plain delta, and only
        the others need a detail.
        """
        samples, token_ids = self.samples, self._unsent
        self._unsent = []
        if not self.in_details:
            samples.outbox.add_text(samples.slot, text, token_ids)
            if tool_calls or reasoning:
                detail = tokenizer_pb2.TokenizerGenerateResponse(
                    tool_calls=tool_calls, reasoning_delta=reasoning
                )
                samples.outbox.add_detail(samples.slot, detail, [])
            return
        samples.report_prompt()
        detail = tokenizer_pb2.TokenizerGenerateResponse(
            text_delta=text, tool_calls=tool_calls, reasoning_delta=reasoning, sample_index=self.index
        )
        if self.return_token_ids:
            detail.token_ids.extend(token_ids)
        if self.logprobs:
            self.logprobs.move_to(detail)
        samples.outbox.add_detail(samples.slot, detail, token_ids)
