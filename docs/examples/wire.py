"""CRC32C, protobuf and NATS for `publish_room.py`, with nothing but the standard library. An SFU has libraries for them."""

import asyncio, json, secrets, struct
from collections import defaultdict


def crc32c(data):  # Castagnoli, bit by bit
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def fixed32(n):
    return 5, struct.pack("<I", n)


def fixed64(n):
    return 1, struct.pack("<Q", n)


def sint64(n):  # zigzag
    return 2 * n if n >= 0 else -2 * n - 1


def pack(*fields):
    """A protobuf message of pairs: field number and value."""
    out = b""
    for number, value in fields:
        if isinstance(value, tuple):  # wire type and bytes
            out += varint(number << 3 | value[0]) + value[1]
        elif isinstance(value, int):  # bool and enum too
            out += varint(number << 3) + varint(value % 2**64)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


class Fields(defaultdict):
    """The fields of a protobuf message: lists of integers and bytes by number."""

    def __init__(self, data):
        super().__init__(list)
        self.data, at = data, 0
        while at < len(data):
            key, at = self.varint(at)
            if key & 7 == 0:
                value, at = self.varint(at)
            else:
                size, at = ({1: 8, 5: 4}[key & 7], at) if key & 7 != 2 else self.varint(at)
                value, at = data[at : at + size], at + size
                value = value if key & 7 == 2 else int.from_bytes(value, "little")
            self[key >> 3].append(value)

    def varint(self, at):
        value = shift = 0
        while True:
            byte, at = self.data[at], at + 1
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value, at

    def integer(self, number):  # what is not there is 0
        return self[number][-1] if self[number] else 0

    def text(self, number):
        return self[number][-1].decode() if self[number] else ""


class Nats:
    """A connection that comes back, with its subscriptions."""

    def __init__(self, server, inbox):
        self.server, self.inbox, self.writer, self.waiting = server, inbox, None, {}
        self.handlers = [(f"{inbox}.*", self.on_answer)]  # subject, and function of subject, reply and data

    def publish(self, subject, data, reply="", headers=None):
        if self.writer is None:
            return
        head = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = f"NATS/1.0\r\n{head}\r\n".encode() if headers else b""
        sizes = f"{len(head)} {len(head) + len(data)}" if headers else f"{len(data)}"
        line = f"{'HPUB' if headers else 'PUB'} {subject} {reply} {sizes}\r\n"
        self.writer.write(line.encode() + head + data + b"\r\n")

    async def append(self, subject, data, headers):
        """Publishes to JetStream; answers whether that was acknowledged."""
        reply, answer = f"{self.inbox}.{secrets.token_hex(8)}", asyncio.get_running_loop().create_future()
        self.waiting[reply] = answer
        self.publish(subject, data, reply, headers)
        try:
            said = json.loads(await asyncio.wait_for(answer, 5))
            return "seq" in said and "error" not in said
        except (asyncio.TimeoutError, ValueError):  # no answer, or 503: no responders, which has no text
            return False
        finally:
            del self.waiting[reply]

    def on_answer(self, subject, _, data):
        if subject in self.waiting and not self.waiting[subject].done():
            self.waiting[subject].set_result(data)

    async def run(self):
        while True:
            try:
                await self.converse(*await asyncio.open_connection(*self.server.rsplit(":", 1)))
            except (OSError, asyncio.IncompleteReadError) as error:
                print(f"NATS at {self.server}: {error}")
            if self.writer:
                self.writer.close()
            self.writer = None
            await asyncio.sleep(1)

    async def converse(self, reader, writer):
        hello = {"verbose": False, "headers": True, "no_responders": True, "lang": "python", "version": "1"}
        writer.write(f"CONNECT {json.dumps(hello)}\r\n".encode())
        writer.writelines(f"SUB {subject} {number}\r\n".encode() for number, (subject, _) in enumerate(self.handlers))
        self.writer = writer
        while line := (await reader.readline()).decode():
            verb, *words = line.split()
            if verb == "PING":
                writer.write(b"PONG\r\n")
            elif verb == "-ERR":
                print("NATS:", line.strip())
            elif verb in ("MSG", "HMSG"):  # subject, subscription, perhaps reply, with H the length of headers, length
                data = (await reader.readexactly(int(words[-1]) + 2))[:-2]
                lengths = 1 if verb == "MSG" else 2
                reply = words[2] if len(words) == 3 + lengths else ""
                data = data if lengths == 1 else data[int(words[-2]) :]
                try:
                    self.handlers[int(words[1])][1](words[0], reply, data)
                except (IndexError, KeyError, AttributeError, UnicodeDecodeError) as error:
                    print(f"a message on {words[0]} is not what it should be: {error!r}")
