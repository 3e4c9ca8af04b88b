//! Data that lives as long as the thread, in the arena: the program and the shapes of sets.
//!
//! All of it together is a good part of what a large evaluation allocates, and here it costs neither an allocator's work nor small pages.

use std::ops::Deref;

use super::arena;

/// Moves a value into the arena. It is never dropped.
pub(crate) fn keep<T>(x: T) -> &'static T {
    const { assert!(align_of::<T>() <= 8) };
    let p = arena::words(size_of::<T>().div_ceil(8)).cast::<T>();
    // SAFETY: the words are our own, aligned and large enough, and are not freed while this thread lives.
    unsafe {
        p.write(x);
        &*p
    }
}

/// A slice in the arena; its items are never dropped.
#[derive(PartialEq, Eq)]
pub(crate) struct Kept<T: 'static>(&'static [T]);

impl<T> From<Vec<T>> for Kept<T> {
    fn from(mut items: Vec<T>) -> Self {
        const { assert!(align_of::<T>() <= 8) };
        let n = items.len();
        let p = arena::words((size_of::<T>() * n).div_ceil(8)).cast::<T>();
        // SAFETY: room for n items of our own, not freed while this thread lives; the vector gives its items up.
        unsafe {
            std::ptr::copy_nonoverlapping(items.as_ptr(), p, n);
            items.set_len(0);
            Self(std::slice::from_raw_parts(p, n))
        }
    }
}

impl<T: Copy> From<&[T]> for Kept<T> {
    fn from(items: &[T]) -> Self {
        items.to_vec().into()
    }
}

impl<T> FromIterator<T> for Kept<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        items.into_iter().collect::<Vec<T>>().into()
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(&[])
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<T> Deref for Kept<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0
    }
}

impl<'a, T> IntoIterator for &'a Kept<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
