#!/usr/bin/env python3
"""Publishes a room to roomreel by the rules of docs/sfu-contract.md: one participant, one silent Opus track.

    python3 docs/examples/publish_room.py 127.0.0.1:14222 --room hello --seconds 10

It ends when all of it is in the bucket. Field numbers are those of proto/roomreel/v1; `wire.py` stands for libraries.
"""
import argparse, asyncio, secrets, string, struct, time

from wire import Fields, Nats, crc32c, fixed32, fixed64, pack, sint64

BATCH_US, BATCH_BYTES, BUFFER_BYTES, IN_FLIGHT = 100_000, 16_000, 64 << 20, 256
GRACE_S, GIVE_UP_S = 10, 600
ROOM_CREATED, ROOM_CLOSED, PEER_JOINED, PEER_LEFT, PRODUCER_CREATED, PUBLISHER_GAP = 10, 11, 13, 14, 15, 21


def token(text):  # an id as a part of a subject
    literal = (string.ascii_letters + string.digits + "_-").encode()
    return "".join(chr(byte) if byte in literal else f"={byte:02X}" for byte in text.encode())


def shard(tenant, room, shards):  # FNV-1a, 64 bits
    value = 0xCBF29CE484222325
    for byte in token(tenant).encode() + b"\0" + token(room).encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value % shards


class Series:
    """One numbering: the batches of a track, or the room's events, whose track is empty."""
    def __init__(self, subject, track=""):
        self.subject, self.track, self.incarnation = subject, track, secrets.randbits(64) or 1
        self.next = self.next_packet = self.open_bytes = 0
        self.held, self.open, self.gap = {}, [], None  # messages by number; packets; numbers that were dropped


class Message:
    def __init__(self, series, payload):
        self.series, self.number, self.payload = series, series.next, payload
        self.attempt, self.is_busy, self.stored_at = 0, False, None

    def is_due(self, now):  # acknowledged long ago
        return self.stored_at and not self.is_busy and now - self.stored_at >= GRACE_S


class Room:
    """A room's messages: numbered, repeated until they are acknowledged, kept, and sent again."""
    def __init__(self, nats, tenant, sfu, room, shards):
        self.nats, self.id, self.in_flight, self.tasks = nats, room, asyncio.Semaphore(IN_FLIGHT), set()
        self.prefix = f"roomreel.v1.s{shard(tenant, room, shards)}.{token(tenant)}.{token(sfu)}.{token(room)}"
        self.events, self.begun, self.bytes = Series(f"{self.prefix}.event"), asyncio.Event(), 0
        self.series, self.beginnings, now = {"": self.events}, [], time.monotonic()
        self.recordings = {}  # when each was heard of last
        self.is_expected, self.opened_at, self.again_at, self.wait = True, now, now + GRACE_S, GRACE_S  # auto_record
        nats.handlers.append((f"roomreel.v1.back.{token(tenant)}.{token(sfu)}.*", self.on_back_channel))

    def event(self, kind, at_us, *fields, more=()):
        for series in self.series.values():
            self.close_batch(series)  # an event follows the media before it
        head = (1, self.id), (2, fixed64(self.events.incarnation)), (3, self.events.next), (4, at_us)
        message = self.hold(self.events, pack(*head, (kind, pack(*fields)), *more))
        if kind in (ROOM_CREATED, PRODUCER_CREATED):
            self.beginnings.append(message)

    def produce(self, at_us, track, *fields):
        self.event(PRODUCER_CREATED, at_us, (1, track), *fields)
        self.series[track] = Series(f"{self.prefix}.media.{token(track)}", track)

    def packet(self, track, at_us, data, is_rtcp=False):
        series = self.series[track]
        if series.open and (at_us - series.open[0][0] >= BATCH_US or series.open_bytes + len(data) > BATCH_BYTES):
            self.close_batch(series)
        series.open.append((at_us, 3 if is_rtcp else 2, data))
        series.open_bytes += len(data) + 16

    def close_batch(self, series):
        packets, series.open, series.open_bytes = series.open, [], 0
        if not packets:
            return
        base, first = packets[0][0], series.next_packet
        packets = [(7, pack((1, sint64(at - base)), (kind, data))) for at, kind, data in packets]
        numbers = (3, fixed64(series.incarnation)), (4, series.next), (5, first), (6, base)
        body = pack((1, self.id), (2, series.track), *numbers, *packets)
        series.next_packet += len(packets)
        if self.make_room(len(body) + 1024):
            self.declare_gap(series, base)
            self.hold(series, pack((1, fixed32(crc32c(body))), (2, body)))
        else:  # dropped: its numbers stay used
            since = series.gap or [(3, first), None, (5, series.next), None]
            series.gap = [since[0], (4, series.next_packet - 1), since[2], (6, series.next)]
            series.next += 1

    def declare_gap(self, series, at_us):  # before the batch that follows: what is stored behind a gap is not part of it
        gap, series.gap = series.gap, None
        if gap:
            self.event(PUBLISHER_GAP, at_us, (1, series.track), (2, fixed64(series.incarnation)), *gap)

    def make_room(self, size):  # forgets what is acknowledged, oldest first
        if self.bytes + size <= BUFFER_BYTES:
            return True
        stored = [m for series in self.series.values() for m in series.held.values() if m.stored_at and not m.is_busy]
        stored.sort(key=lambda message: -message.stored_at)
        while stored and self.bytes + size > BUFFER_BYTES:
            self.forget(stored.pop())
        return self.bytes + size <= BUFFER_BYTES

    def hold(self, series, payload):
        message = series.held[series.next] = Message(series, payload)
        series.next, self.bytes = series.next + 1, self.bytes + len(payload)
        self.send(message)
        return message

    def forget(self, message):
        if message.series.held.pop(message.number, None):
            self.bytes -= len(message.payload)

    def send(self, message, attempt=0):  # with an attempt: again, under an id that was not used before
        if not message.is_busy:
            message.is_busy, message.attempt = True, attempt and max(attempt, message.attempt + 1)
            task = asyncio.ensure_future(self.append(message))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def append(self, message):
        series, wait = message.series, 0.25
        if series is not self.events or message.number > 0:
            await self.begun.wait()  # RoomCreated comes first
        message_id = f"{series.incarnation:016x}:{message.number}" + (f":r{message.attempt}" if message.attempt else "")
        headers = {"Nats-Msg-Id": message_id, "traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"}
        async with self.in_flight:
            while not await self.nats.append(series.subject, message.payload, headers):
                await asyncio.sleep(wait)
                wait = min(2 * wait, 5)
        message.is_busy, message.stored_at = False, time.monotonic()
        self.begun.set()

    def on_back_channel(self, _subject, _reply, data):
        said = Fields(data)
        if said.text(1) != self.id:
            return
        for state in map(Fields, said[10]):
            self.recordings.pop(state.text(2), None)
            if state.integer(1):
                self.recordings[state.text(2)] = time.monotonic()
        for watermark in map(Fields, said[11]):
            marks = [(mark.text(1), mark.integer(2), mark.integer(3)) for mark in map(Fields, watermark[3])]
            marks += [("", mark.integer(1), mark.integer(2)) for mark in map(Fields, watermark[4])]
            for track, incarnation, below in marks:
                if self.recordings and below and incarnation == self.events.incarnation:
                    self.is_expected = False  # this session's beginning is recorded
                for message in self.held(track, incarnation, 0, below - 1):
                    self.forget(message)
        for asked in map(Fields, said[12]):
            for missing in map(Fields, asked[3]):
                for message in self.held(asked.text(1), asked.integer(2), missing.integer(1), missing.integer(2)):
                    self.send(message, asked.integer(4))

    def held(self, track, incarnation, first, last):
        series = self.series.get(track)
        held = series.held.values() if series and series.incarnation == incarnation else ()
        return [message for message in held if first <= message.number <= last]

    def on_time(self, at_us):  # a few times a second
        now = time.monotonic()
        for series in list(self.series.values()):
            if series.open and at_us - series.open[0][0] >= BATCH_US:
                self.close_batch(series)
            if series.gap and self.make_room(1024):
                self.declare_gap(series, at_us)
        self.is_expected &= now - self.opened_at < GIVE_UP_S
        self.recordings = {of: at for of, at in self.recordings.items() if now - at < GIVE_UP_S}
        if self.recordings:  # a broker that lost the end of a numbering left no hole
            ends = [series.held[max(series.held)] for series in self.series.values() if series.held]
            media = [message for message in ends if message.series is not self.events]
            again = [m for m in media if m.is_due(now)] or ([] if any(m.is_busy for m in media) else ends)
            for message in again:
                if message.is_due(now):
                    self.send(message, 1)
        elif not self.is_expected:
            for message in [m for series in self.series.values() for m in series.held.values() if m.is_due(now)]:
                self.forget(message)
        if self.is_expected and now >= self.again_at:  # the log may have lost the beginning before anybody read it
            self.wait *= 2
            self.again_at = now + self.wait
            for message in self.beginnings:
                self.send(message, 1)

    async def close(self, at_us):
        waits = lambda s: s.open or s.gap or not all(message.stored_at for message in s.held.values())
        while any(waits(series) for series in self.series.values()):
            self.on_time(at_us() + BATCH_US)
            await asyncio.sleep(0.05)
        ends = [(5, pack((1, s.track), (2, fixed64(s.incarnation)), (3, s.next), (4, s.next_packet)))
                for s in self.series.values() if s.track]
        self.event(ROOM_CLOSED, at_us(), (1, "ended"), more=ends)


def now_us():
    return time.time_ns() // 1000


async def speak(room, track, ssrc, seconds):
    """Silence from a participant: packets as an SFU receives them, and a sender report every second."""
    began = now_us()
    for number in range(seconds * 50):
        await asyncio.sleep(max(0, began + number * 20_000 - now_us()) / 1e6)
        at_us, timestamp = now_us(), number * 960
        room.packet(track, at_us, struct.pack("!BBHII", 0x80, 111, number & 0xFFFF, timestamp, ssrc) + b"\xf8\xff\xfe")
        if number % 50 == 0:
            ntp = (at_us * 2**32 // 1_000_000 + (2_208_988_800 << 32)) & 2**64 - 1
            report = struct.pack("!BBHIQIII", 0x80, 200, 6, ssrc, ntp, timestamp, number, number * 3)
            room.packet(track, at_us, report, is_rtcp=True)
        room.on_time(at_us)


async def main(args):
    instance, sfu = secrets.randbits(64), f"{token(args.tenant)}.{token(args.sfu)}"
    nats = Nats(args.server, f"_INBOX_{token(args.sfu)}")
    room = Room(nats, args.tenant, args.sfu, args.room, args.shards)

    def on_command(_subject, reply, data):  # SfuCommand: nobody is behind this room who could be asked
        error = pack((1, 1003), (2, "this publisher takes no commands"))
        nats.publish(reply, pack((1, Fields(data).text(2)), (3, error)))

    async def heartbeat():
        while True:
            beat = (1, args.sfu), (2, args.tenant), (3, "publish_room.py"), (4, fixed64(instance)), (5, args.room), (6, now_us())
            nats.publish(f"roomreel.v1.registry.{sfu}", pack(*beat))
            await asyncio.sleep(5)

    nats.handlers.append((f"roomreel.v1.sfu.{sfu}.command", on_command))
    background = [asyncio.ensure_future(nats.run()), asyncio.ensure_future(heartbeat())]
    ssrc, extension = secrets.randbits(32), "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
    yes = [(number, 1) for number in (1, 2, 5, 6, 7)]  # enabled, auto_record, audio, video, screens
    policy = pack(*yes, (3, 1), (4, 4), (10, "ada"))  # the host may record, everybody may download
    room.event(ROOM_CREATED, now_us(), (1, args.room), (2, "ada"), (4, policy))
    room.event(PEER_JOINED, now_us(), (1, "ada"), (2, "Ada"), (3, 1))
    codec = pack((1, 111), (2, "opus"), (3, 48_000), (4, 2), (5, "useinbandfec=1"))
    audio = (2, "ada"), (3, 1), (5, codec), (6, pack((1, ssrc))), (7, pack((1, 1), (2, extension)))
    room.produce(now_us(), "ada-mic", *audio)
    await speak(room, "ada-mic", ssrc, args.seconds)
    room.event(PEER_LEFT, now_us(), (1, "ada"), (2, "left"))
    await room.close(now_us)
    while any(series.held for series in room.series.values()):
        room.on_time(now_us())
        await asyncio.sleep(0.1)
    track = room.series["ada-mic"]
    print(f"{room.events.next} events and {track.next} batches with {track.next_packet} packets are in the bucket")
    for task in background:
        task.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("server", help="HOST:PORT of NATS")
    parser.add_argument("--tenant", default="default")
    parser.add_argument("--sfu", default="sfu-py")
    parser.add_argument("--room", default="hello")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=10)
    asyncio.run(main(parser.parse_args()))
