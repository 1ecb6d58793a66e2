package e2b;

import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** Jupyter's messages on the wire: signed parts behind a delimiter. */
final class Wire {
  private static final byte[] DELIMITER = bytes("<IDS|MSG>");

  private final String key;
  private final String session = "kernel-" + ProcessHandle.current().pid();
  private int sent;

  /** The header is kept as it came, to be sent back with every answer. */
  record Message(String type, byte[] header, Map<String, Object> content) {}

  /** @param key of the connection file; empty means unsigned */
  Wire(String key) {
    this.key = key;
  }

  @SuppressWarnings("unchecked")
  Message decode(List<byte[]> parts) {
    int start = 0;
    while (start < parts.size() && !Arrays.equals(parts.get(start), DELIMITER)) start++;
    if (start + 6 > parts.size()) throw new IllegalArgumentException("not a message of Jupyter");
    List<byte[]> signed = parts.subList(start + 2, start + 6);
    if (!MessageDigest.isEqual(sign(signed), parts.get(start + 1))) {
      throw new IllegalArgumentException("wrong signature");
    }
    Map<String, Object> header = Json.parseObject(text(signed.get(0)));
    return new Message((String) header.get("msg_type"), signed.get(0), Json.parseObject(text(signed.get(3))));
  }

  synchronized List<byte[]> encode(String type, Map<String, ?> content, Message parent) {
    Map<String, Object> header = new LinkedHashMap<>();
    header.put("msg_id", session + "_" + ++sent);
    header.put("msg_type", type);
    header.put("username", "kernel");
    header.put("session", session);
    header.put("date", Instant.now().toString());
    header.put("version", "5.3");
    List<byte[]> signed =
        List.of(
            bytes(Json.write(header)),
            parent == null ? bytes("{}") : parent.header(),
            bytes("{}"),
            bytes(Json.write(content)));
    List<byte[]> parts = new ArrayList<>(List.of(DELIMITER, sign(signed)));
    parts.addAll(signed);
    return parts;
  }

  static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  private static String text(byte[] bytes) {
    return new String(bytes, StandardCharsets.UTF_8);
  }

  private byte[] sign(List<byte[]> parts) {
    if (key.isEmpty()) return new byte[0];
    try {
      Mac mac = Mac.getInstance("HmacSHA256");
      mac.init(new SecretKeySpec(bytes(key), "HmacSHA256"));
      parts.forEach(mac::update);
      return bytes(HexFormat.of().formatHex(mac.doFinal()));
    } catch (GeneralSecurityException missing) {
      throw new IllegalStateException(missing);
    }
  }
}
