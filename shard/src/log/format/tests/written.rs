//! A log as its writer would leave it: segments made batch by batch in memory, for the tests of whoever reads them.

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxar_protocol::{Envelope, Form, Id, envelope, meta::Meta as EnvelopeMeta, meta::MetaWriter};

use crate::log::{
    Events,
    class::Class,
    disk::SegmentId,
    files::MemoryFiles,
    footer::{Extents, Footer, FooterRow},
    format::{
        BATCH_HEAD_BYTES, Base, BatchHead, BatchWriter, Body, Kind, Removed, SegmentHead, row_of, salt_of,
    },
    recovery::{META, Meta, RecoveredPartition, read_footer},
};

pub(in crate::log) const SECRET: u64 = 0x5ec2_e75e_c2e7_0001;
pub(in crate::log) const NOW_MS: u64 = 1_800_000_000_000;

/// An event with such a payload; its id is made from its number.
pub(in crate::log) fn event(topic: &str, number: u64, key: Option<&str>, payload: &[u8]) -> Vec<u8> {
    let meta = key.map(|key| MetaWriter::new().text("key", key).finish().unwrap());
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let mut out = Vec::new();
    let envelope = Envelope {
        kind: envelope::Kind::Event,
        id: Id(id),
        reference: None,
        target: Some(topic),
        meta: meta.as_deref().map(EnvelopeMeta::from_checked),
        payload,
        error: None,
    };
    envelope.encode(Form::Compact, &mut out);
    out
}

/// Some bytes as a payload: a CBOR byte string.
pub(in crate::log) fn payload(bytes: usize, fill: u8) -> Vec<u8> {
    let mut out = vec![0x59];
    out.extend_from_slice(&(bytes as u16).to_be_bytes());
    out.resize(3 + bytes, fill);
    out
}

/// So many events, the first with this number.
pub(in crate::log) fn events(topic: &str, first: u64, count: u64) -> Events {
    run((first..first + count).map(|number| event(topic, number, None, &payload(20, number as u8))))
}

pub(in crate::log) fn run(events: impl IntoIterator<Item = Vec<u8>>) -> Events {
    let mut bytes = Vec::new();
    let ends = events
        .into_iter()
        .map(|event| {
            bytes.extend_from_slice(&event);
            bytes.len() as u32
        })
        .collect();
    Events {
        bytes: Bytes::from(bytes),
        ends,
    }
}

/// A data directory, written by one stream at a time.
pub(in crate::log) struct Written {
    pub(in crate::log) files: MemoryFiles,
    meta: Meta,
    core: u16,
    head: SegmentHead,
    at: u64,
    synced_at: u64,
    extents: Extents,
    bases: Vec<Base>,
    rows: Vec<FooterRow>,
    cursors_at: Vec<u64>,
    removed: Vec<Removed>,
    /// What was written of each partition, whether it is still there or not.
    pub(in crate::log) events: BTreeMap<(u16, u64), Vec<u8>>,
    /// Where each batch of the newest segment is.
    pub(in crate::log) batches: Vec<(u64, BatchHead)>,
}

impl Written {
    /// A directory in its first start, without a segment.
    pub(in crate::log) fn new(partitions: u16, cores: u16) -> Self {
        let mut meta = Meta::new([7; 16], partitions);
        (meta.secret, meta.starts, meta.cores, meta.is_clean) = (SECRET, 1, cores, false);
        let id = SegmentId { core: 0, number: 0 };
        let mut this = Self {
            files: MemoryFiles::default(),
            head: SegmentHead {
                id,
                cores,
                partitions,
                epoch: meta.epoch(),
                created_ms: NOW_MS,
                salt: 0,
            },
            meta,
            core: 0,
            at: 0,
            synced_at: 0,
            extents: Extents::default(),
            bases: Vec::new(),
            rows: Vec::new(),
            cursors_at: Vec::new(),
            removed: Vec::new(),
            events: BTreeMap::new(),
            batches: Vec::new(),
        };
        this.put_meta();
        this
    }

    fn put_meta(&mut self) {
        self.meta.write(&mut self.files).unwrap();
    }

    /// Whose stream is written from now on.
    pub(in crate::log) fn core(&mut self, core: u16) {
        self.core = core;
    }

    pub(in crate::log) fn id(&self) -> SegmentId {
        self.head.id
    }

    pub(in crate::log) fn head(&self) -> SegmentHead {
        self.head
    }

    pub(in crate::log) fn at(&self) -> u64 {
        self.at
    }

    /// Goes on as the start of which recovery has just written `meta`.
    pub(in crate::log) fn started(&mut self) {
        self.meta = Meta::read(&self.files).unwrap().unwrap();
        self.head.epoch = self.meta.epoch();
        self.head.cores = self.meta.cores;
        assert!(self.files.0.contains_key(META));
    }

    /// Begins the next segment of this core, with room for so many bytes.
    pub(in crate::log) fn segment(&mut self, bases: &[Base], room: usize) {
        let numbers = self.files.0.keys().filter_map(|name| SegmentId::from_name(name));
        let number = numbers
            .filter(|id| id.core == self.core)
            .map(|id| id.number)
            .max();
        let id = SegmentId {
            core: self.core,
            number: number.unwrap_or(0) + 1,
        };
        self.files.0.insert(id.name(), vec![0; room]);
        self.head.id = id;
        self.head.salt = salt_of(SECRET, id);
        (self.at, self.synced_at) = (0, 0);
        self.extents = Extents::default();
        self.bases = bases.to_vec();
        self.rows.clear();
        self.cursors_at.clear();
        self.removed.clear();
        self.batches.clear();
        let bases = bases.to_vec();
        self.write(|writer| vec![writer.bases(&bases)]);
    }

    /// One write, then a sync.
    pub(in crate::log) fn write(&mut self, batches: impl FnOnce(&mut BatchWriter) -> Vec<BatchHead>) {
        self.write_unsynced(batches);
        self.synced_at = self.at;
    }

    /// One write.
    pub(in crate::log) fn write_unsynced(
        &mut self,
        batches: impl FnOnce(&mut BatchWriter) -> Vec<BatchHead>,
    ) {
        let mut writer = BatchWriter::new(&self.head, self.at, self.synced_at, NOW_MS);
        let mut at = writer.at();
        let heads = batches(&mut writer);
        let end = writer.at();
        let bytes = writer.finish().concat();
        assert_eq!(self.at + bytes.len() as u64, end);
        let file = self.files.0.get_mut(&self.head.id.name()).unwrap();
        let begin = self.at as usize;
        if file.len() < begin + bytes.len() {
            file.resize(begin + bytes.len(), 0);
        }
        file[begin..begin + bytes.len()].copy_from_slice(&bytes);
        self.at = end;
        for head in heads {
            self.batches.push((at, head));
            self.take(at, head);
            at += head.bytes();
        }
    }

    /// Keeps what the footer will say, as the log does.
    fn take(&mut self, at: u64, head: BatchHead) {
        self.extents.push(&head, at);
        if head.kind == Kind::Cursors {
            self.cursors_at.push(at);
        }
        let file = &self.files.0[&self.head.id.name()];
        let body = Bytes::copy_from_slice(&file[at as usize + BATCH_HEAD_BYTES..]);
        let body = Body::check(head, &body).unwrap();
        self.removed.extend(body.removed().unwrap());
        let Some(stored) = body.events().unwrap() else {
            return;
        };
        for index in 0..stored.events.len() {
            let event = stored.events.get(index);
            let offset = head.first + index as u64;
            self.events.insert((head.partition, offset), event.to_vec());
            if !head.class.retain {
                continue;
            }
            let row = row_of(event).unwrap();
            self.rows.push(FooterRow {
                partition: head.partition,
                offset,
                time_ms: head.time_ms,
                at,
                index: index as u32,
                is_removal: row.is_removal,
                topic: row.topic.into(),
                key: row.key.into(),
            });
        }
    }

    /// A batch of plain events, written and synced.
    pub(in crate::log) fn append(&mut self, partition: u16, first: u64, count: u64) {
        self.append_as(
            partition,
            Class::default(),
            first,
            &events(&format!("t.{partition}"), first, count),
        );
    }

    pub(in crate::log) fn append_as(&mut self, partition: u16, class: Class, first: u64, run: &Events) {
        self.write(|writer| vec![writer.events(partition, class, first, NOW_MS, [run])]);
    }

    /// Writes the footer, and cuts the file to its length.
    pub(in crate::log) fn seal(&mut self, is_last: bool) {
        let footer = Footer {
            is_last,
            bases: self.bases.clone(),
            extents: self.extents.clone().into_vec(),
            rows: Some(self.rows.clone()),
            cursors_at: Some(self.cursors_at.clone()),
            removed: self.removed.clone(),
        };
        self.write(|writer| {
            writer.footer(&footer);
            Vec::new()
        });
        let at = self.at as usize;
        self.files.0.get_mut(&self.head.id.name()).unwrap().truncate(at);
    }

    pub(in crate::log) fn file_bytes(&self) -> usize {
        self.files.0[&self.head.id.name()].len()
    }

    /// The newest segment's bytes.
    pub(in crate::log) fn file(&mut self) -> &mut Vec<u8> {
        self.files.0.get_mut(&self.head.id.name()).unwrap()
    }
}

/// All events of a partition that can be read by its extents, as whoever serves them would.
pub(in crate::log) fn read_held(
    files: &MemoryFiles,
    partition: &RecoveredPartition,
) -> BTreeMap<(u16, u64), Vec<u8>> {
    let mut found = BTreeMap::new();
    for held in &partition.extents {
        let salt = salt_of(SECRET, held.segment);
        let file = Bytes::copy_from_slice(&files.0[&held.segment.name()]);
        let mut index = held.extent.index.clone();
        if index.is_empty() {
            let footer = read_footer(files, held.segment, salt, file.len() as u64).unwrap();
            let extents = footer.map(|(_, _, footer)| footer.extents).unwrap_or_default();
            let mut of_partition = extents
                .into_iter()
                .filter(|extent| extent.partition == partition.partition);
            index = of_partition.next().map(|extent| extent.index).unwrap_or_default();
        }
        for entry in &index {
            let mut at = entry.at;
            while at < entry.end() {
                // Damage within a stretch is passed over, as a scan does it.
                let Ok(head) = BatchHead::decode(&file[at as usize..], salt, at) else {
                    at += 8;
                    continue;
                };
                let body = Body::check(head, &file.slice(at as usize + BATCH_HEAD_BYTES..));
                at += head.bytes();
                let Ok(body) = body else { continue };
                let Some(stored) = body.events().unwrap() else {
                    continue;
                };
                if head.partition != partition.partition {
                    continue;
                }
                for index in 0..stored.events.len() {
                    let offset = head.first + index as u64;
                    if (held.extent.first..=held.extent.last).contains(&offset) {
                        let event = stored.events.get(index).to_vec();
                        let before = found.insert((partition.partition, offset), event);
                        assert!(before.is_none(), "offset {offset} is held twice");
                    }
                }
            }
        }
    }
    found
}
