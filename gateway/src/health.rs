//! Active health: a peer that serves and is silent is pinged, and gets nothing new while it does not answer.
//!
//! ```text
//!   serves ─▶ watched ── silent for ping_ms: ping ─▶ asked ── silent for silent_ms more ─▶ silent (no new calls)
//!                ^                                     │                                     │
//!                └──────────────── any byte ───────────┴─────────────────────────────────────┘
//! ```
//!
//! Only serving sessions have the deadline; the others pay nothing. The heartbeat goes on beside it and ends the
//! connection of who stays silent for long.

use crate::front::Front;
use crate::session::awaited;

/// A look that comes later than this says that this core was held up, not that the peer is silent: what it said may
/// not have been read yet.
const LATE_MS: u64 = 100;

impl Front {
    /// The peer serves from now on: tells the shard how fit it is, and watches its silence.
    pub(crate) fn watch_health(&mut self, slot: usize) {
        let ping_ms = u64::from(self.services.health.ping_ms);
        let now_ms = self.now_ms;
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if ping_ms > 0 && session.due.health_ms == u64::MAX {
            session.due.health_ms = now_ms + ping_ms;
            self.arm(slot);
        }
        self.tell_standing(slot);
    }

    /// Tells the shard how fit a peer is, as its session says; nothing comes of it if the peer serves nothing.
    pub(crate) fn tell_standing(&mut self, slot: usize) {
        let Some(session) = &self.sessions[slot] else {
            return;
        };
        // One that is away gets nothing anyway, and is told of when it returns.
        if !session.left && !session.is_away() {
            self.shard.set_standing(session.peer, session.standing);
            self.after_shard();
        }
    }

    /// The time to look at the silence of a serving peer has come.
    pub(crate) fn look_at_health(&mut self, slot: usize) {
        let (now_ms, health) = (self.now_ms, self.services.health);
        let (ping_ms, silent_ms) = (u64::from(health.ping_ms), u64::from(health.silent_ms));
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        let late_ms = now_ms.saturating_sub(session.due.health_ms);
        session.due.health_ms = u64::MAX;
        if ping_ms == 0 || !self.shard.is_serving(session.peer) {
            return;
        }
        if session.paused != 0 {
            // Not read from, so its silence says nothing.
            session.awaited &= !awaited::HEALTH;
            session.due.health_ms = now_ms + ping_ms;
        } else if session.awaited & awaited::HEALTH != 0 {
            if late_ms > LATE_MS {
                session.due.health_ms = now_ms + silent_ms;
                return;
            }
            let still_ms = now_ms.saturating_sub(session.received_ms);
            if still_ms < silent_ms {
                // It said nothing, and takes what was queued before the ping.
                session.due.health_ms = session.received_ms + silent_ms;
                return;
            }
            session.awaited |= awaited::SIGN_OF_LIFE;
            session.standing.silent = true;
            self.counters.silent += 1;
            tracing::debug!(conn = ?session.conn, "a serving peer is silent: it gets nothing new until it speaks");
            self.tell_standing(slot);
        } else if now_ms.saturating_sub(session.received_ms) >= ping_ms {
            let was_awaited = session.awaited;
            session.awaited |= awaited::HEALTH;
            session.due.health_ms = now_ms + silent_ms;
            // The heartbeat's ping, if it owes that pong still, does as well.
            if was_awaited & awaited::HEARTBEAT == 0 {
                self.ping(slot);
            }
        } else {
            session.due.health_ms = session.received_ms + ping_ms;
        }
    }

    /// A peer gave a sign of life.
    #[inline]
    pub(crate) fn lives(&mut self, slot: usize) {
        if let Some(session) = &mut self.sessions[slot] {
            session.received_ms = self.now_ms;
            if session.awaited != 0 {
                self.heard(slot);
            }
        }
    }

    /// One of which it was awaited.
    fn heard(&mut self, slot: usize) {
        let health_ms = self.now_ms + u64::from(self.services.health.ping_ms);
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        let was_awaited = std::mem::take(&mut session.awaited);
        if was_awaited & awaited::SIGN_OF_LIFE != 0 {
            session.standing.silent = false;
            session.due.health_ms = health_ms;
            self.arm(slot);
            self.tell_standing(slot);
        }
    }
}
