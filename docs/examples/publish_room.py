#!/usr/bin/env python3
"""Publishes a tiny room to roomreel: one participant, one silent Opus track. See docs/sfu-contract.md.

    pip install nats-py protobuf grpcio-tools
    python -m grpc_tools.protoc -I proto --python_out=docs/examples proto/roomreel/v1/contract.proto proto/roomreel/v1/back_channel.proto
    python docs/examples/publish_room.py nats://127.0.0.1:4222 --tenant default --sfu sfu-py --room hello --shards 4
"""
import argparse, asyncio, secrets, struct, time

import nats
from roomreel.v1 import back_channel_pb2 as back, contract_pb2 as contract


def token(text):  # any id as a part of a subject
    literal = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
    return "".join(chr(b) if b in literal else f"={b:02X}" for b in text.encode())


def shard(tenant, room, shards):  # FNV-1a 64 over tenant token, a zero byte, room token
    value = 0xCBF29CE484222325
    for byte in token(tenant).encode() + b"\0" + token(room).encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value % shards


def crc32c(data):  # Castagnoli, reflected; a real SFU uses a library
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Series:
    """One numbering: a room's events, or the batches of one track."""

    def __init__(self, publisher, subject):
        self.publisher, self.subject = publisher, subject
        self.incarnation, self.next, self.held = secrets.randbits(64) or 1, 0, {}

    async def send(self, message_id, payload):
        headers = {"Nats-Msg-Id": message_id, "traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"}
        wait = 0.25
        while True:  # for ever, under the same id: the log drops what it has
            try:
                return await self.publisher.jetstream.publish(self.subject, payload, timeout=5, headers=headers)
            except Exception as error:
                print(f"{message_id}: {error!r}; again in {wait} s")
                await asyncio.sleep(wait)
                wait = min(2 * wait, 5)

    async def publish(self, payload):
        number, self.next = self.next, self.next + 1
        self.held[number] = payload  # until a watermark covers it
        await self.send(f"{self.incarnation:016x}:{number}", payload)


class RoomPublisher:
    def __init__(self, connection, tenant, sfu, room, shards):
        self.jetstream, self.room = connection.jetstream(), room
        self.prefix = f"roomreel.v1.s{shard(tenant, room, shards)}.{token(tenant)}.{token(sfu)}.{token(room)}"
        self.events, self.tracks = Series(self, f"{self.prefix}.event"), {}

    async def event(self, **kind):
        event = contract.RoomEvent(room_id=self.room, time_us=time.time_ns() // 1000, **kind)
        event.incarnation, event.event_no = self.events.incarnation, self.events.next
        await self.events.publish(event.SerializeToString())

    async def batch(self, track, packets):  # packets: (receive time in µs, RTP packet)
        series = self.tracks.setdefault(track, Series(self, f"{self.prefix}.media.{token(track)}"))
        first = getattr(series, "next_packet_no", 0)
        series.next_packet_no = first + len(packets)
        base = packets[0][0]
        body = contract.RtpBatchBody(
            room_id=self.room, track_id=track, incarnation=series.incarnation, batch_no=series.next,
            first_packet_no=first, base_time_us=base,
            packets=[contract.Packet(receive_offset_us=at - base, rtp=rtp) for at, rtp in packets],
        ).SerializeToString()
        await series.publish(contract.RtpBatch(body=body, body_crc32c=crc32c(body)).SerializeToString())

    async def hear(self, message):
        said = back.BackChannel.FromString(message.data)
        if said.HasField("watermark"):
            marks = [(self.tracks.get(m.track_id), m.incarnation, m.next_batch_no) for m in said.watermark.tracks]
            marks += [(self.events, m.incarnation, m.next_event_no) for m in said.watermark.events]
            for series, incarnation, below in marks:
                if series and series.incarnation == incarnation:
                    series.held = {number: kept for number, kept in series.held.items() if number >= below}
        elif said.HasField("replay_request"):
            asked = said.replay_request
            series = self.tracks.get(asked.track_id) if asked.track_id else self.events
            if series and series.incarnation == asked.incarnation:
                for number, kept in list(series.held.items()):
                    if any(missing.first <= number <= missing.last for missing in asked.missing):
                        await series.send(f"{asked.incarnation:016x}:{number}:r{asked.attempt}", kept)


async def main(args):
    connection = await nats.connect(args.server, inbox_prefix=f"_INBOX_{token(args.sfu)}".encode())
    room = RoomPublisher(connection, args.tenant, args.sfu, args.room, args.shards)
    await connection.subscribe(f"roomreel.v1.back.{token(args.tenant)}.{token(args.sfu)}.*", cb=room.hear)

    policy = contract.RecordingPolicy(
        enabled=True, auto_record=True, who_can_record=contract.AUDIENCE_HOST, who_can_download=contract.AUDIENCE_ALL,
        record_audio=True, record_video=True, record_screenshare=True, host_id="ada")
    await room.event(room_created=contract.RoomCreated(room_name="Hello", host_id="ada", policy=policy))
    await room.event(peer_joined=contract.PeerJoined(peer_id="ada", display_name="Ada", is_host=True))
    opus = contract.CodecParameters(payload_type=111, name="opus", clock_rate=48000, channels=2)
    ssrc = secrets.randbits(32)
    await room.event(producer_created=contract.ProducerCreated(
        track_id="ada-mic", peer_id="ada", kind=contract.MEDIA_KIND_AUDIO, codecs=[opus],
        encodings=[contract.Encoding(ssrc=ssrc)]))
    for first in range(0, args.seconds * 50, 5):  # five packets of 20 ms are a batch of 100 ms
        packets = []
        for number in range(first, first + 5):
            await asyncio.sleep(0.02)
            header = struct.pack("!BBHII", 0x80, 111, number & 0xFFFF, number * 960, ssrc)
            packets.append((time.time_ns() // 1000, header + b"\xf8\xff\xfe"))
        await room.batch("ada-mic", packets)
    await room.event(peer_left=contract.PeerLeft(peer_id="ada", reason="left"))
    await room.event(room_closed=contract.RoomClosed(reason="ended"))
    print(f"published {room.events.next} events and {room.tracks['ada-mic'].next} batches to {room.prefix}.>")
    await connection.drain()


parser = argparse.ArgumentParser()
parser.add_argument("server")
parser.add_argument("--tenant", default="default")
parser.add_argument("--sfu", default="sfu-py")
parser.add_argument("--room", default="hello")
parser.add_argument("--shards", type=int, default=4)
parser.add_argument("--seconds", type=int, default=2)
asyncio.run(main(parser.parse_args()))
