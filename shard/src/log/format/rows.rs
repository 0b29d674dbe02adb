//! What a retained event is the newest of: its topic and its key.

use fluxar_protocol::envelope;

/// The row of a table that an event sets or removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// `meta.key` as it is encoded; empty: it has none.
    pub key: &'a [u8],
    /// Whether it removes the row: its payload is null.
    pub is_removal: bool,
}

/// The row of a stored event; `None`: it is no event with a topic.
#[must_use]
pub fn row_of(event: &[u8]) -> Option<Row<'_>> {
    let decoded = envelope::decode(event).ok()?;
    let envelope = decoded.envelope;
    Some(Row {
        topic: envelope.target?,
        key: envelope.meta.and_then(|meta| meta.get("key")).unwrap_or_default(),
        is_removal: matches!(envelope.payload, [0xf6]),
    })
}
