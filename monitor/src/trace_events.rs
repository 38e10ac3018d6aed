//! Trace events of this crate: what clients ask, what they are told.

trace::events! {
    /// A client asked for something that is well-formed: the whole request.
    handle_qmp_command(mon: trace::Id, req: impl std::fmt::Display) "mon {mon} req: {req}";
    /// A command begins, in its turn; `id` is the request's.
    monitor_qmp_cmd_in_band(id: impl std::fmt::Display) "{id}";
    /// A command begins out of turn.
    monitor_qmp_cmd_out_of_band(id: impl std::fmt::Display) "{id}";
    /// A client got the greeting or a reply.
    monitor_qmp_respond(mon: trace::Id, json: &str) "mon {mon} resp: {json}";
    /// What a client sent is no request.
    monitor_qmp_err_in_band(desc: &str) "{desc}";
    /// A person entered a line.
    handle_hmp_command(mon: trace::Id, cmdline: &str) "mon {mon} cmdline: {cmdline}";
    /// An event happened, by name; those of a kind pass once in `rate` nanoseconds, 0 for at once.
    monitor_protocol_event_queue(event: &str, data: impl std::fmt::Display, rate: i64) "event={event} data={data} rate={rate}";
    /// An event goes to the clients.
    monitor_protocol_event_emit(event: &str, data: impl std::fmt::Display) "event={event} data={data}";
    /// The time in which events of a kind wait is over.
    monitor_protocol_event_handler(event: &str, data: impl std::fmt::Display) "event={event} data={data}";
}
