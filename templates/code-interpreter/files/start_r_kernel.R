# Starts IRkernel as Debian has it, with three changes to what it sends. The value of the last expression is the result
# of the cell: IRkernel shows every value as something displayed, and clients then find no text. And code that asks
# for input gets an error: IRkernel waits for an answer even when the client has said that none will come.
# And code that prints faster than it is read waits.
local({
  # ZeroMQ drops what a reader has not taken after 1,000 messages. Here the sender waits, and after few of them, because
  # they may be large. Both are set before the socket is bound, when its connections get their bounds.
  xpub_nodrop <- 69L
  waiting_messages <- 16L
  imports <- parent.env(asNamespace("IRkernel"))
  bind <- get("zmq.bind", imports)
  unlockBinding("zmq.bind", imports)
  assign("zmq.bind", function(socket, endpoint) {
    if (pbdZMQ::zmq.getsockopt(socket, pbdZMQ::ZMQ.SO()$TYPE, 0L) == pbdZMQ::ZMQ.ST()$PUB) {
      pbdZMQ::zmq.setsockopt(socket, pbdZMQ::ZMQ.SO()$SNDHWM, waiting_messages)
      pbdZMQ::zmq.setsockopt(socket, xpub_nodrop, 1L)
    }
    bind(socket, endpoint)
  }, imports)
  lockBinding("zmq.bind", imports)

  kernel <- IRkernel:::Kernel$new(connection_file = commandArgs(TRUE)[[1]])
  send <- kernel$executor$send_response

  # The last value so far, until it is known whether another one follows.
  held <- NULL
  released <- NULL
  release <- function(type, ...) {
    if (is.null(held)) return()
    value <- held
    held <<- NULL
    released <<- value$bundle
    send(type, value$request, "iopub", c(value$bundle, list(...)))
  }

  # Values come from the one method with these arguments; `display()` and plots take other ways.
  is_value <- function(caller) identical(names(formals(caller)), c("obj", "visible"))

  kernel$executor$send_response <- function(type, request, socket, content) {
    if (type == "display_data" && is_value(sys.function(-1))) {
      release("display_data")
      held <<- list(request = request, bundle = content)
      return(invisible())
    }
    if (type == "execute_reply") {
      if (identical(content$status, "ok")) {
        release("execute_result", execution_count = content$execution_count)
      } else if (!identical(held$bundle, released)) {
        # Where an error follows, the last value is reported twice.
        release("display_data")
      }
      held <<- released <<- NULL
    }
    if (type == "input_request") stop("Code in a cell cannot read input: write the value into the code", call. = FALSE)
    send(type, request, socket, content)
  }
  kernel$run()
})
