//! The table of a core's sessions: those that have a connection at the place that it names, and those that are away behind
//! them, at places that no connection ever has. So whoever says something to a session need not know where it is.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut, Range};

use fluxar_engine::driver::Token;
use fluxar_engine::paged::Paged;
use fluxar_engine::reactor::Conn;

use crate::session::Session;

/// The first place of those that are away. The engine's tables are nowhere near.
const AWAY_FIRST: usize = 1 << 31;

/// So many that are not away any more may stand in their order however few there are.
const ORDER_SLACK: usize = 64;

/// Sessions by place.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    connected: Paged<Option<Session>>,
    away: Paged<Option<Session>>,
    /// Places of those that are free.
    free: Vec<usize>,
    /// Those that are away, and some that were: who is away longest comes first. At most about twice as many as are. First
    /// those that have something open, then those that have nothing.
    orders: [VecDeque<Conn>; 2],
    /// Tells the tenants of a place apart.
    generation: u32,
}

/// Whether a place, or a name that was made for one, is of a session that is away: nothing can be sent there.
#[inline]
pub(crate) fn is_away(conn: Conn) -> bool {
    conn.0.slot as usize >= AWAY_FIRST
}

impl Sessions {
    /// Places of connections, taken or not.
    pub(crate) fn len(&self) -> usize {
        self.connected.len()
    }

    pub(crate) fn push(&mut self, session: Option<Session>) {
        self.connected.push(session);
    }

    /// What is at a place, if it is one.
    #[inline]
    pub(crate) fn get(&self, slot: usize) -> Option<&Option<Session>> {
        match slot.checked_sub(AWAY_FIRST) {
            None => self.connected.get(slot),
            Some(at) => self.away.get(at),
        }
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut Option<Session>> {
        match slot.checked_sub(AWAY_FIRST) {
            None => self.connected.get_mut(slot),
            Some(at) => self.away.get_mut(at),
        }
    }

    /// How many are away.
    pub(crate) fn away(&self) -> usize {
        self.away.len() - self.free.len()
    }

    /// Places of those that are away, taken or not.
    pub(crate) fn away_slots(&self) -> Range<usize> {
        AWAY_FIRST..AWAY_FIRST + self.away.len()
    }

    /// Puts a session there, under a name that no connection has; its place. `has_nothing`: its end would cost its peer nothing.
    pub(crate) fn put_away(&mut self, mut session: Session, has_nothing: bool) -> usize {
        self.generation = self.generation.wrapping_add(1);
        let at = self.free.pop().unwrap_or_else(|| {
            self.away.push(None);
            self.away.len() - 1
        });
        let slot = AWAY_FIRST + at;
        session.conn = Conn(Token {
            slot: slot as u32,
            generation: self.generation,
        });
        if self.in_order() > 2 * self.away() + ORDER_SLACK {
            let away = &self.away;
            for order in &mut self.orders {
                order.retain(|conn| slot_in(away, *conn).is_some());
            }
        }
        self.orders[usize::from(has_nothing)].push_back(session.conn);
        self.away[at] = Some(session);
        slot
    }

    /// How many stand in the order of those that are away.
    pub(crate) fn in_order(&self) -> usize {
        self.orders.iter().map(VecDeque::len).sum()
    }

    /// Where the one is that is to go first where too many are away: of those that have nothing, or else of all, the one that is
    /// away longest.
    pub(crate) fn first_to_go(&mut self) -> Option<usize> {
        for order in self.orders.iter_mut().rev() {
            while let Some(&first) = order.front() {
                if let Some(slot) = slot_in(&self.away, first) {
                    return Some(slot);
                }
                order.pop_front();
            }
        }
        None
    }

    /// Takes one out of there.
    pub(crate) fn take_away(&mut self, slot: usize) -> Option<Session> {
        let at = slot.checked_sub(AWAY_FIRST)?;
        let session = self.away.get_mut(at)?.take()?;
        self.free.push(at);
        Some(session)
    }
}

/// The place of the session that has this name, if it is still away.
fn slot_in(away: &Paged<Option<Session>>, conn: Conn) -> Option<usize> {
    let slot = conn.0.slot as usize;
    let session = away.get(slot.checked_sub(AWAY_FIRST)?)?.as_ref()?;
    (session.conn == conn).then_some(slot)
}

impl Index<usize> for Sessions {
    type Output = Option<Session>;

    #[inline]
    fn index(&self, slot: usize) -> &Option<Session> {
        match slot.checked_sub(AWAY_FIRST) {
            None => &self.connected[slot],
            Some(at) => &self.away[at],
        }
    }
}

impl IndexMut<usize> for Sessions {
    #[inline]
    fn index_mut(&mut self, slot: usize) -> &mut Option<Session> {
        match slot.checked_sub(AWAY_FIRST) {
            None => &mut self.connected[slot],
            Some(at) => &mut self.away[at],
        }
    }
}
