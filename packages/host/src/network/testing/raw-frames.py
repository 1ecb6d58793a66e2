"""Run in a guest's namespace as a hostile kernel could: sends frames of its own making to every destination of
argv[1] (JSON), in every protocol, and prints what came back but refusals, as a JSON list of texts."""
import json, select, socket, struct, sys, time

plan = json.loads(sys.argv[1])
MARK = b"reach-me"
OUTGOING = 4
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("eth0", 0))
me = s.getsockname()[4]
gateway = bytes.fromhex(plan["gatewayMac"].replace(":", ""))


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def ipv4(source, to, protocol, body):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, protocol, 0, source, to)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def tcp(source, to, port):
    syn = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, 2, 1024, 0, 0) + MARK
    pseudo = source + to + struct.pack("!BBH", 0, 6, len(syn))
    return syn[:16] + struct.pack("!H", checksum(pseudo + syn)) + syn[18:]


def bodies(source, to, port):
    echo = struct.pack("!BBHHH", 8, 0, 0, 7, 7) + MARK
    yield 1, echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
    yield 6, tcp(source, to, port)
    yield 17, struct.pack("!HHHH", 40000, port, 8 + len(MARK), 0) + MARK
    # IPv6 in IPv4, GRE, ESP, SCTP, and one that nobody knows.
    for protocol in (41, 47, 50, 132, 253):
        yield protocol, MARK * 4


def ipv6(to, port):
    body = struct.pack("!HHHH", 40000, port, 8 + len(MARK), 1) + MARK
    source = socket.inet_pton(socket.AF_INET6, "fe80::1")
    return struct.pack("!IHBB16s16s", 6 << 28, len(body), 17, 64, source, socket.inet_pton(socket.AF_INET6, to)) + body


def frames():
    for mac in (gateway, b"\xff" * 6, b"\x01\x00\x5e\0\0\1", bytes.fromhex(plan["guestMac"].replace(":", ""))):
        for name in plan["sources"]:
            for destination in plan["destinations"]:
                source, to = socket.inet_aton(name), socket.inet_aton(destination)
                for protocol, body in bodies(source, to, plan["port"]):
                    packet = ipv4(source, to, protocol, body)
                    yield mac + me + b"\x08\0" + packet
                    yield mac + me + b"\x81\0\0\1\x08\0" + packet
        for to in plan["destinations6"]:
            yield mac + me + b"\x86\xdd" + ipv6(to, plan["port"])
        yield mac + me + b"\x88\xb5" + MARK * 8


def describe(packet):
    """None for a refusal: an ICMP error or redirect without a way there, or a TCP reset."""
    kind, protocol, body = packet[12:14], packet[23], packet[34:]
    if kind != b"\x08\0":
        return None if MARK not in packet else f"frame {kind.hex()}"
    if protocol == 1 and body[0] in (3, 5) or protocol == 6 and body[13] & 4:
        return None
    kind = f"icmp {body[0]}" if protocol == 1 else f"protocol {protocol}"
    return f"{kind} from {socket.inet_ntoa(packet[26:30])}"


def collect(answers, seconds):
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and select.select([s], [], [], left)[0]:
        packet, address = s.recvfrom(65536)
        if address[2] != OUTGOING and (text := describe(packet)):
            answers.add(text)


answers = set()
for number, frame in enumerate(frames()):
    s.send(frame)
    if number % 64 == 0:
        collect(answers, 0.001)
collect(answers, 0.5)
print(json.dumps(sorted(answers)))
