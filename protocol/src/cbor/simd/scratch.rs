//! Working memory of a walk on the stack, which costs nothing until it is used.

use core::mem::MaybeUninit;

/// A list of at most `N` values that is not zeroed first: clearing it would cost more than walking a small item.
pub(in crate::cbor) struct Scratch<T, const N: usize> {
    /// The first `len` are initialised.
    slots: [MaybeUninit<T>; N],
    len: usize,
}

impl<T: Copy, const N: usize> Scratch<T, N> {
    pub(in crate::cbor) fn new() -> Self {
        Self {
            slots: [const { MaybeUninit::uninit() }; N],
            len: 0,
        }
    }

    #[inline(always)]
    pub(in crate::cbor) fn len(&self) -> usize {
        self.len
    }

    /// Forgets all but the first `len` values.
    pub(in crate::cbor) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The values.
    pub(in crate::cbor) fn filled(&mut self) -> &mut [T] {
        // SAFETY: the first `len` slots are initialised, and `MaybeUninit<T>` is laid out as `T`.
        unsafe { core::slice::from_raw_parts_mut(self.slots.as_mut_ptr().cast::<T>(), self.len) }
    }

    /// Starts to append, see [`Appender`].
    #[inline(always)]
    pub(in crate::cbor) fn append(&mut self) -> Appender<'_, T, N> {
        Appender {
            len: self.len,
            slots: &mut self.slots,
            committed: &mut self.len,
        }
    }
}

/// Appends to a [`Scratch`] with the length in a register. What is appended counts from [`Appender::commit`] on.
pub(in crate::cbor) struct Appender<'a, T, const N: usize> {
    slots: &'a mut [MaybeUninit<T>; N],
    /// The first `len` slots are initialised.
    len: usize,
    committed: &'a mut usize,
}

impl<T: Copy, const N: usize> Appender<'_, T, N> {
    /// Writes all of `values`, which there must be room for, and keeps the first `keep` of them: whether something
    /// is kept costs no branch.
    #[inline(always)]
    pub(in crate::cbor) fn put<const C: usize>(&mut self, values: &[T; C], keep: usize) {
        debug_assert!(keep <= C);
        let slots: &mut [MaybeUninit<T>; C] = (&mut self.slots[self.len..self.len + C])
            .try_into()
            .expect("a slice of C");
        *slots = values.map(MaybeUninit::new);
        self.len += keep.min(C);
    }

    #[inline(always)]
    pub(in crate::cbor) fn commit(self) {
        *self.committed = self.len;
    }
}
