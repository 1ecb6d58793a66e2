package e2b;

import java.awt.image.RenderedImage;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Consumer;
import javax.imageio.ImageIO;

/** Shows more than a cell's last value: `Display.html("<b>x</b>")`, `Display.image(picture)`. */
public final class Display {
  static Consumer<Map<String, Object>> publish = bundle -> {};

  private Display() {}

  /** Any form by its MIME type; binary ones as base64. */
  public static void mime(String type, Object form) {
    Map<String, Object> bundle = new LinkedHashMap<>();
    bundle.put(type, form);
    publish.accept(bundle);
  }

  public static void html(String html) {
    mime("text/html", html);
  }

  public static void markdown(String markdown) {
    mime("text/markdown", markdown);
  }

  public static void svg(String svg) {
    mime("image/svg+xml", svg);
  }

  public static void png(byte[] bytes) {
    mime("image/png", Base64.getEncoder().encodeToString(bytes));
  }

  public static void jpeg(byte[] bytes) {
    mime("image/jpeg", Base64.getEncoder().encodeToString(bytes));
  }

  public static void image(RenderedImage image) throws IOException {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    ImageIO.write(image, "png", out);
    png(out.toByteArray());
  }
}
