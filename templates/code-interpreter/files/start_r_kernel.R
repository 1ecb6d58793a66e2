# The kernel of R: IRkernel as Debian has it, but for how it evaluates cells and how it publishes.
# - What is printed goes to the process's own output, as it does in R, and not into memory until the expression ends:
#   `start_r_kernel.py` reads it there while the code runs.
# - The value of the last expression is the result of the cell: IRkernel shows every value as something displayed, and
#   clients then find no text.
# - Code that asks for input gets an error: IRkernel waits for an answer even when the client has said that none comes.
local({
  arguments <- commandArgs(TRUE)
  imports <- parent.env(asNamespace("IRkernel"))
  import_instead <- function(name, make) {
    original <- get(name, imports)
    unlockBinding(name, imports)
    assign(name, make(original), imports)
    lockBinding(name, imports)
  }

  # Published is by the other process, which listens in place of this one.
  publishing <- NULL
  is_publishing <- function(socket) pbdZMQ::zmq.getsockopt(socket, pbdZMQ::ZMQ.SO()$TYPE, 0L) == pbdZMQ::ZMQ.ST()$PUB
  import_instead("zmq.bind", function(bind) function(socket, endpoint) {
    if (!is_publishing(socket)) bind(socket, endpoint)
  })
  # A message that is sent is seen: what is printed next comes after it.
  import_instead("zmq.send.multipart", function(send) function(socket, parts, ...) suspendInterrupts({
    send(socket, parts, ...)
    if (identical(socket, publishing)) {
      repeat {
        answers <- pbdZMQ::zmq.poll(c(socket), pbdZMQ::ZMQ.PO()$POLLIN, MC = pbdZMQ::ZMQ.MC(check.eintr = FALSE))
        if (answers[[1]] > 0) break
      }
      pbdZMQ::zmq.msg.recv(socket, unserialize = FALSE)
    }
  }))

  is_last <- FALSE

  # What a plot consists of, without what draws nothing.
  undrawn <- c("palette", "palette2", "C_layout", "C_par", "C_clip", "C_strWidth", "C_strHeight", "C_plot_window")
  drawn_by <- function(plot) {
    Filter(function(call) {
      what <- call[[2]][[1]]
      name <- if (is.list(what)) what[["name"]] else deparse(what)[[1]]
      !(name %in% undrawn || startsWith(name, "requireNamespace("))
    }, plot[[1]])
  }

  # Calls back with each plot that the code draws. Returns a function that looks for one.
  watch_plots <- function(show) {
    grDevices::dev.new()
    grDevices::dev.control(displaylist = "enable")
    device <- grDevices::dev.cur()
    shown <- list()
    look <- function(is_over = FALSE) {
      # A page with place for more is not complete.
      if (grDevices::dev.cur() != device || !(is_over || graphics::par("page"))) return(invisible())
      plot <- grDevices::recordPlot()
      drawn <- drawn_by(plot)
      if (length(drawn) > 0 && !identical(drawn, shown)) show(plot)
      shown <<- drawn
    }
    close <- function() if (device %in% grDevices::dev.list()) grDevices::dev.off(device)
    list(look = look, close = close)
  }

  on_new_page <- NULL
  for (event in c("before.plot.new", "before.grid.newpage", "persp")) {
    setHook(event, function(...) if (!is.null(on_new_page)) on_new_page(), "append")
  }

  evaluate_cell <- function(input, envir = parent.frame(), output_handler, ...) {
    is_last <<- FALSE
    # What is said of the code is not said of the calls that evaluate it.
    evaluating <- quote(eval(expressions[[index]], envir))
    of_the_code <- function(condition) {
      if (identical(conditionCall(condition), evaluating)) condition["call"] <- list(NULL)
      condition
    }
    expressions <- tryCatch(parse(text = input, keep.source = TRUE), error = function(condition) {
      condition["call"] <- list(NULL)
      output_handler$error(condition)
    })
    if (!is.expression(expressions)) return(invisible())
    plots <- watch_plots(output_handler$graphics)
    on_new_page <<- function() plots$look()
    on.exit({
      on_new_page <<- NULL
      plots$close()
    })
    # Messages are left to R, which writes them.
    attempt <- function(code) {
      failed <- TRUE
      try({
        withCallingHandlers(code, warning = function(condition) {
          if (getOption("warn") >= 2) return()
          if (getOption("warn") >= 0) output_handler$warning(of_the_code(condition))
          invokeRestart("muffleWarning")
        }, error = function(condition) output_handler$error(of_the_code(condition)))
        failed <- FALSE
      }, silent = TRUE)
      plots$look()
      !failed
    }
    for (index in seq_along(expressions)) {
      is_last <<- index == length(expressions)
      value <- NULL
      if (!attempt(value <- withVisible(eval(expressions[[index]], envir)))) break
      if (length(formals(output_handler$value)) == 2) attempt(output_handler$value(value$value, value$visible))
    }
    plots$look(is_over = TRUE)
    invisible()
  }
  import_instead("evaluate", function(evaluate) evaluate_cell)

  kernel <- IRkernel:::Kernel$new(connection_file = arguments[[1]])
  publishing <- pbdZMQ::zmq.socket(kernel$zmqctx, pbdZMQ::ZMQ.ST()$PAIR)
  pbdZMQ::zmq.connect(publishing, arguments[[2]])
  kernel$sockets$iopub <- publishing

  # Values come from the one method with these arguments; `display()` and plots take other ways.
  is_value <- function(caller) identical(names(formals(caller)), c("obj", "visible"))
  send <- kernel$executor$send_response
  kernel$executor$send_response <- function(type, request, socket, content) {
    if (type == "stream" && content$name == "stderr") return(cat(content$text, file = stderr()))
    if (type == "input_request") stop("Code in a cell cannot read input: write the value into the code", call. = FALSE)
    if (type == "display_data" && is_last && is_value(sys.function(-1))) {
      type <- "execute_result"
      content$execution_count <- kernel$executor$execution_count
    }
    # Pictures are Base64 without ends of lines, as those of other kernels: who passes them on need not take them off.
    for (form in names(Filter(is.raw, content$data))) {
      content$data[[form]] <- gsub("\n", "", jsonlite::base64_enc(content$data[[form]]), fixed = TRUE)
    }
    # Clients get it as one text.
    if (!is.null(content$traceback)) {
      content$traceback <- list(sub("Traceback:\n\n", "Traceback:\n", paste(content$traceback, collapse = "\n")))
    }
    send(type, request, socket, content)
  }
  kernel$run()
})
