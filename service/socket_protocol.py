"""WebSockets on accepted connections: uvicorn's protocol, with ends that come. An optional part.

the application returns without closing     the connection is aborted: a client that does not read
                                             would hold it for ever
a close that the client does not answer     aborted after LINGER_S
a frame that breaks the protocol            its close code, and the rest is read for LINGER_S: a client that
                                             is still sending would lose the code to a reset
a send after the end                        ClientDisconnected, whichever side has ended it
text that is not UTF-8                      1007, and no traceback in the log
pings of a client that does not read        not answered
a message in very many pieces               joined now and then: pieces cost more than what is in them
very many messages at once                  1008
"""

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

LINGER_S = 2.0
PIECES_MAX = 64
MESSAGES_AHEAD_MAX = 1000
BAD_PROTOCOL = 1002
BAD_TEXT = 1007
TOO_MANY = 1008


class SocketProtocol(WebSocketsSansIOProtocol):
    """One connection, from its handshake on."""

    _failed = False  # the client has broken the protocol: what it sends is not read any more

    def data_received(self, data: bytes) -> None:
        """Take in what the client has sent."""
        if not self._failed:
            super().data_received(data)

    def handle_cont(self, event: Frame) -> None:
        """Keep a piece of a message."""
        if len(self.frames) >= PIECES_MAX:
            self.frames = [b"".join(self.frames)]
        super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer a ping, unless the client has stopped reading."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def send_receive_event_to_app(self) -> None:
        """Hand a message on, if it is one."""
        if not self.close_sent:
            if self.queue.qsize() >= MESSAGES_AHEAD_MAX:
                self._fail(TOO_MANY, "too many messages at once")
                return
            if self.curr_msg_data_type == "text" and not self._is_text():
                self._fail(BAD_TEXT, "text must be UTF-8")
                return
        super().send_receive_event_to_app()

    def _is_text(self) -> bool:
        self.frames = [b"".join(self.frames)]
        try:
            self.frames[0].decode()
        except UnicodeDecodeError:
            return False
        return True

    def _fail(self, code: int, reason: str) -> None:
        self.frames = []
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        """End the connection with the code of what the client did wrong."""
        self._failed = True
        sent = self.conn.close_sent
        code, reason = (sent.code, sent.reason) if sent else (BAD_PROTOCOL, "")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._abort_later()

    def keepalive_timeout(self) -> None:
        """End the connection of a client that has not answered a ping."""
        super().keepalive_timeout()
        self._abort_later()

    def shutdown(self) -> None:
        """End the connection: the server ends."""
        super().shutdown()
        self._abort_later()

    async def send(self, message: ASGISendEvent) -> None:
        """Send, as ASGI defines it. Raises ClientDisconnected."""
        await self.writable.wait()
        if self.close_sent or self.transport.is_closing():
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.accept":
            del self.request, self.response  # nothing reads them again, and they are large

    async def run_asgi(self) -> None:
        """Run the application to the end of the connection."""
        await super().run_asgi()
        if self.disconnected:
            return
        if self.close_sent or self.conn.close_sent is not None:
            self._abort_later()
        else:
            self.transport.abort()

    def _abort_later(self) -> None:
        """Let the connection end for LINGER_S; what is unread then is lost."""
        if self.disconnected:
            return
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(LINGER_S, self._abort)

    def _abort(self) -> None:
        self.close_timer = None
        self.transport.abort()
