package e2b;

import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.StandardProtocolFamily;
import java.nio.ByteBuffer;
import java.nio.channels.Channels;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.BiConsumer;

/** The ZeroMQ wire protocol (ZMTP 3.0, mechanism NULL), the listening side, as much of it as a kernel needs. */
final class Zmtp {
  private static final int GREETING_BYTES = 64;
  private static final int MORE = 1;
  private static final int LONG = 2;
  private static final int COMMAND = 4;
  private static final int MAX_FRAME_BYTES = 1 << 30;

  private final String type;
  private final BiConsumer<List<byte[]>, Peer> onMessage;
  private final Set<Peer> peers = ConcurrentHashMap.newKeySet();

  /** A client. Its writes are whole messages, one at a time, and wait for it. */
  final class Peer {
    private final SocketChannel channel;
    private volatile boolean isReady;
    private volatile boolean isSubscribed;

    Peer(SocketChannel channel) {
      this.channel = channel;
    }

    synchronized void send(List<byte[]> parts) {
      ByteArrayOutputStream out = new ByteArrayOutputStream();
      for (int i = 0; i < parts.size(); i++) {
        byte[] part = parts.get(i);
        int flags = i < parts.size() - 1 ? MORE : 0;
        out.writeBytes(head(flags, part.length));
        out.writeBytes(part);
      }
      write(out.toByteArray());
    }

    private synchronized void write(byte[] bytes) {
      ByteBuffer buffer = ByteBuffer.wrap(bytes);
      try {
        while (buffer.hasRemaining()) channel.write(buffer);
      } catch (IOException gone) {
        peers.remove(this);
      }
    }
  }

  /** @param type ROUTER, PUB or REP */
  Zmtp(String type, BiConsumer<List<byte[]>, Peer> onMessage) {
    this.type = type;
    this.onMessage = onMessage;
  }

  void listen(SocketAddress address) throws IOException {
    ServerSocketChannel server =
        address instanceof InetSocketAddress
            ? ServerSocketChannel.open()
            : ServerSocketChannel.open(StandardProtocolFamily.UNIX);
    server.bind(address);
    start("accept", () -> {
      while (true) {
        SocketChannel channel = server.accept();
        start("peer", () -> serve(channel));
      }
    });
  }

  /** To every subscriber. */
  void publish(List<byte[]> parts) {
    for (Peer peer : peers) {
      if (peer.isReady && peer.isSubscribed) peer.send(parts);
    }
  }

  private interface Task {
    void run() throws IOException;
  }

  private void start(String name, Task task) {
    Thread thread = new Thread(() -> {
      try {
        task.run();
      } catch (IOException gone) {
        // A client that leaves ends its thread.
      }
    }, "zmtp-" + type + "-" + name);
    thread.setDaemon(true);
    thread.start();
  }

  private void serve(SocketChannel channel) throws IOException {
    Peer peer = new Peer(channel);
    peers.add(peer);
    try (channel) {
      peer.write(greeting());
      DataInputStream in = new DataInputStream(Channels.newInputStream(channel));
      byte[] theirs = in.readNBytes(GREETING_BYTES);
      if (theirs.length < GREETING_BYTES || theirs[10] < 3) return;
      peer.write(ready());
      List<byte[]> parts = new ArrayList<>();
      while (true) {
        int flags = in.read();
        if (flags < 0) return;
        long length = (flags & LONG) != 0 ? in.readLong() : in.readUnsignedByte();
        if (length < 0 || length > MAX_FRAME_BYTES) return;
        byte[] body = in.readNBytes((int) length);
        if (body.length < length) return;
        if ((flags & COMMAND) != 0) {
          peer.isReady = true;
          continue;
        }
        parts.add(body);
        if ((flags & MORE) != 0) continue;
        take(parts, peer);
        parts = new ArrayList<>();
      }
    } finally {
      peers.remove(peer);
    }
  }

  private void take(List<byte[]> parts, Peer peer) {
    switch (type) {
      case "PUB":
        peer.isSubscribed = parts.get(0).length > 0 && parts.get(0)[0] == 1;
        break;
      case "REP":
        peer.send(parts);
        break;
      default:
        onMessage.accept(parts, peer);
    }
  }

  private static byte[] head(int flags, int length) {
    if (length < 256) return new byte[] {(byte) flags, (byte) length};
    return ByteBuffer.allocate(9).put((byte) (flags | LONG)).putLong(length).array();
  }

  private static byte[] greeting() {
    byte[] greeting = new byte[GREETING_BYTES];
    greeting[0] = (byte) 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    System.arraycopy("NULL".getBytes(StandardCharsets.US_ASCII), 0, greeting, 12, 4);
    return greeting;
  }

  private byte[] ready() {
    ByteArrayOutputStream body = new ByteArrayOutputStream();
    body.write(5);
    body.writeBytes("READY".getBytes(StandardCharsets.US_ASCII));
    for (String[] property : new String[][] {{"Socket-Type", type}, {"Identity", ""}}) {
      body.write(property[0].length());
      body.writeBytes(property[0].getBytes(StandardCharsets.US_ASCII));
      body.writeBytes(ByteBuffer.allocate(4).putInt(property[1].length()).array());
      body.writeBytes(property[1].getBytes(StandardCharsets.US_ASCII));
    }
    ByteArrayOutputStream frame = new ByteArrayOutputStream();
    frame.writeBytes(head(COMMAND, body.size()));
    frame.writeBytes(body.toByteArray());
    return frame.toByteArray();
  }
}
