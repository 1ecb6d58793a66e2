package e2b;

import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.UnixDomainSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/**
 * The Jupyter kernel of Java: `java JavaKernel CONNECTION_FILE [STDOUT STDERR]`, with the descriptors from which the
 * process's own output can be read, where it goes to pipes. Cells run on the main thread, one at a time;
 * heartbeat, interrupt and shutdown are answered meanwhile. `--rehearse` runs one cell and ends.
 */
public final class JavaKernel {
  private static final Map<String, Object> INFO =
      Map.of(
          "protocol_version", "5.3",
          "implementation", "java-kernel",
          "implementation_version", "1.0.0",
          "banner", "Java " + Runtime.version(),
          "help_links", List.of(),
          "language_info",
              Map.of(
                  "name", "java",
                  "version", Runtime.version().toString(),
                  "mimetype", "text/x-java-source",
                  "file_extension", ".java"));

  private record Request(Wire.Message message, Zmtp.Peer peer) {}

  private final BlockingQueue<Request> requests = new LinkedBlockingQueue<>();
  private final Wire wire;
  private final Zmtp iopub = new Zmtp("PUB", (parts, peer) -> {});
  private final Output output = new Output((name, text) -> publish("stream", Map.of("name", name, "text", text)));
  private final Cells cells = new Cells(System.getProperty("java.class.path"));
  private final Settings settings = new Settings(this::renewRandomness);
  /** The request whose code runs, or ran last: late output belongs to it. */
  private volatile Wire.Message current;
  private int count;

  private JavaKernel(String key) {
    wire = new Wire(key);
    Display.publish = bundle -> {
      output.settle();
      publish("display_data", Map.of("data", bundle, "metadata", Map.of()));
    };
  }

  public static void main(String[] arguments) throws Exception {
    if (arguments[0].equals("--rehearse")) {
      JavaKernel kernel = new JavaKernel("rehearsal");
      kernel.execute(Map.of("code", "int a = 1; List.of(a, 2).stream().map(x -> x + 1).toList()"));
      kernel.wire.decode(kernel.wire.encode("status", Map.of("execution_state", "idle"), null));
      System.exit(0);
    }
    Map<String, Object> connection = Json.parseObject(Files.readString(Path.of(arguments[0])));
    JavaKernel kernel = new JavaKernel((String) connection.get("key"));
    if (arguments.length == 3) {
      kernel.output.follow(Integer.parseInt(arguments[1]), Integer.parseInt(arguments[2]));
    }
    kernel.listen(connection);
    kernel.serve();
  }

  private void listen(Map<String, Object> connection) throws IOException {
    new Zmtp("REP", null).listen(address(connection, "hb_port"));
    new Zmtp("ROUTER", (parts, peer) -> {}).listen(address(connection, "stdin_port"));
    new Zmtp("ROUTER", (parts, peer) -> control(wire.decode(parts), peer))
        .listen(address(connection, "control_port"));
    iopub.listen(address(connection, "iopub_port"));
    new Zmtp("ROUTER", (parts, peer) -> requests.add(new Request(wire.decode(parts), peer)))
        .listen(address(connection, "shell_port"));
  }

  private static SocketAddress address(Map<String, Object> connection, String port) {
    String ip = (String) connection.get("ip");
    int number = ((Long) connection.get(port)).intValue();
    return "ipc".equals(connection.get("transport"))
        ? UnixDomainSocketAddress.of(ip + "-" + number)
        : new InetSocketAddress(ip, number);
  }

  private void serve() throws InterruptedException {
    while (true) {
      Request request = requests.take();
      current = request.message();
      publish("status", Map.of("execution_state", "busy"));
      Map<String, Object> content = answer(request.message());
      if (content != null) reply(request.message(), request.peer(), content);
      output.settle();
      publish("status", Map.of("execution_state", "idle"));
    }
  }

  private void control(Wire.Message message, Zmtp.Peer peer) {
    switch (message.type()) {
      case "kernel_info_request":
        reply(message, peer, info());
        break;
      case "interrupt_request":
        reply(message, peer, Map.of("status", "ok"));
        cells.interrupt();
        break;
      case "shutdown_request":
        reply(message, peer, Map.of("status", "ok", "restart", message.content().get("restart")));
        Runtime.getRuntime().halt(0);
        break;
      default:
    }
  }

  private void reply(Wire.Message message, Zmtp.Peer peer, Map<String, Object> content) {
    peer.send(wire.encode(message.type().replace("_request", "_reply"), content, message));
  }

  private void publish(String type, Map<String, ?> content) {
    List<byte[]> parts = new java.util.ArrayList<>(List.of(Wire.bytes(type)));
    parts.addAll(wire.encode(type, content, current));
    iopub.publish(parts);
  }

  /** Null for messages that want no answer. */
  private Map<String, Object> answer(Wire.Message message) {
    switch (message.type()) {
      case "execute_request":
        return execute(message.content());
      case "kernel_info_request":
        return info();
      case "is_complete_request":
        return Map.of("status", "unknown");
      case "comm_info_request":
        return Map.of("status", "ok", "comms", Map.of());
      case "history_request":
        return Map.of("status", "ok", "history", List.of());
      default:
        return null;
    }
  }

  private static Map<String, Object> info() {
    Map<String, Object> info = new LinkedHashMap<>(INFO);
    info.put("status", "ok");
    return info;
  }

  private Map<String, Object> execute(Map<String, Object> content) {
    String code = (String) content.get("code");
    boolean isSilent = Boolean.TRUE.equals(content.get("silent"));
    if (!isSilent) {
      count++;
      publish("execute_input", Map.of("code", code, "execution_count", count));
    }
    Cells.Outcome outcome = run(code, isSilent);
    output.settle();
    if (outcome.failure() != null) {
      Map<String, Object> error = describe(outcome.failure());
      if (!isSilent) publish("error", error);
      error.put("status", "error");
      error.put("execution_count", count);
      return error;
    }
    if (!isSilent && outcome.value() != null) {
      Map<String, Object> data = Map.of("text/plain", outcome.value());
      publish("execute_result", Map.of("data", data, "metadata", Map.of(), "execution_count", count));
    }
    return Map.of(
        "status", "ok", "execution_count", count, "payload", List.of(), "user_expressions", Map.of());
  }

  private Cells.Outcome run(String code, boolean isSilent) {
    try {
      if (isSilent && settings.take(code)) return new Cells.Outcome(null, null);
      return cells.run(code);
    } catch (Exception failure) {
      String value = String.valueOf(failure.getMessage());
      return new Cells.Outcome(null, new Cells.Failure(failure.getClass().getName(), value, value));
    }
  }

  private void renewRandomness() {
    Randomness.renew();
    cells.reseedVariables(Randomness::next);
  }

  private static Map<String, Object> describe(Cells.Failure failure) {
    Map<String, Object> error = new LinkedHashMap<>();
    error.put("ename", failure.name());
    error.put("evalue", failure.value());
    error.put("traceback", List.of(failure.traceback()));
    return error;
  }
}
