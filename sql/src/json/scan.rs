//! A cursor over JSON text that checks the grammar as it passes.

use crate::limits::JSON_DEPTH_MAX;

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// null
    Null,
    /// true
    True,
    /// false
    False,
    /// Digits, maybe a minus.
    Integer,
    /// With fraction or exponent.
    Float,
    /// Quotes included; `escaped`: it holds a backslash.
    String { escaped: bool },
    /// `{…}`
    Object,
    /// `[…]`
    Array,
}

/// A value and its place, in bytes of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// What it is.
    pub kind: Kind,
    /// Its first byte.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
    /// No whitespace between its tokens.
    pub compact: bool,
}

/// The one value that `text` is. None: it is not JSON.
pub(crate) fn whole(text: &str) -> Option<Found> {
    let mut scanner = Scanner::at(text, 0);
    let found = scanner.value()?;
    scanner.space();
    (scanner.at == text.len()).then_some(found)
}

/// Of one length: eight bytes at a time, which for names is faster than to call what compares any memory.
fn same(a: &[u8], b: &[u8]) -> bool {
    let (a_eights, a_rest) = a.as_chunks::<8>();
    let (b_eights, b_rest) = b.as_chunks::<8>();
    let eights = a_eights.iter().zip(b_eights);
    let rest = a_rest.iter().zip(b_rest);
    eights.fold(true, |same, (a, b)| {
        same & (u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b))
    }) && rest.fold(true, |same, (a, b)| same & (a == b))
}

/// The cursor.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    /// Whitespace bytes passed so far, to know which values are compact.
    spaces: usize,
}

impl<'a> Scanner<'a> {
    /// A cursor at byte `at`.
    pub fn at(text: &'a str, at: usize) -> Scanner<'a> {
        Scanner {
            bytes: text.as_bytes(),
            at,
            depth: 0,
            spaces: 0,
        }
    }

    /// Where it is.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Whitespace bytes passed so far.
    pub fn spaces(&self) -> usize {
        self.spaces
    }

    /// Passes whitespace.
    pub fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
            self.spaces += 1;
        }
    }

    /// Passes one value, and whitespace before it.
    pub fn value(&mut self) -> Option<Found> {
        self.space();
        let (start, spaces) = (self.at, self.spaces);
        let kind = match self.bytes.get(self.at)? {
            b'"' => self.string()?,
            b'{' => {
                self.members(&mut |_, _| {})?;
                Kind::Object
            }
            b'[' => {
                self.elements(&mut |_| {})?;
                Kind::Array
            }
            b't' => self.word(b"true", Kind::True)?,
            b'f' => self.word(b"false", Kind::False)?,
            b'n' => self.word(b"null", Kind::Null)?,
            _ => self.number()?,
        };
        Some(Found {
            kind,
            start,
            end: self.at,
            compact: self.spaces == spaces,
        })
    }

    /// Passes an object and shows each member's name and value.
    pub fn members(&mut self, show: &mut dyn FnMut(Found, Found)) -> Option<()> {
        self.enter(b'{')?;
        if self.leave(b'}') {
            return Some(());
        }
        loop {
            let name = self.name()?;
            let value = self.value()?;
            show(name, value);
            if !self.comma_or(b'}')? {
                return Some(());
            }
        }
    }

    /// Passes an array and shows each element.
    pub fn elements(&mut self, show: &mut dyn FnMut(Found)) -> Option<()> {
        self.enter(b'[')?;
        if self.leave(b']') {
            return Some(());
        }
        loop {
            let element = self.value()?;
            show(element);
            if !self.comma_or(b']')? {
                return Some(());
            }
        }
    }

    /// Passes the opening bracket and the whitespace after it.
    pub fn enter(&mut self, bracket: u8) -> Option<()> {
        self.expect(bracket)?;
        self.depth += 1;
        self.space();
        (self.depth <= JSON_DEPTH_MAX).then_some(())
    }

    /// Passes the closing bracket, if it is there.
    pub fn leave(&mut self, bracket: u8) -> bool {
        let there = self.bytes.get(self.at) == Some(&bracket);
        if there {
            self.at += 1;
            self.depth -= 1;
        }
        there
    }

    /// Passes a member's name and its colon.
    pub fn name(&mut self) -> Option<Found> {
        self.space();
        let start = self.at;
        let kind = if self.bytes.get(self.at) == Some(&b'"') {
            self.string()?
        } else {
            return None;
        };
        let name = Found {
            kind,
            start,
            end: self.at,
            compact: true,
        };
        self.space();
        self.expect(b':')?;
        Some(name)
    }

    /// Passes these bytes, if they are next.
    pub fn pass(&mut self, bytes: &[u8]) -> bool {
        let there = self
            .bytes
            .get(self.at..self.at + bytes.len())
            .is_some_and(|next| same(next, bytes));
        if there {
            self.at += bytes.len();
        }
        there
    }

    /// Passes `,` (true) or the closing bracket (false).
    pub fn comma_or(&mut self, bracket: u8) -> Option<bool> {
        self.space();
        if self.leave(bracket) {
            return Some(false);
        }
        self.expect(b',')?;
        Some(true)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.bytes.get(self.at) == Some(&byte)).then(|| self.at += 1)
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Option<Kind> {
        self.bytes[self.at..].starts_with(word).then(|| {
            self.at += word.len();
            kind
        })
    }

    fn string(&mut self) -> Option<Kind> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain(&self.bytes[self.at..]);
            match *self.bytes.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return Some(Kind::String { escaped });
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let hex_digits = match self.bytes.get(self.at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 0,
            b'u' => 4,
            _ => return None,
        };
        let digits = self.bytes.get(self.at + 2..self.at + 2 + hex_digits)?;
        self.at += 2 + hex_digits;
        digits.iter().all(u8::is_ascii_hexdigit).then_some(())
    }

    fn number(&mut self) -> Option<Kind> {
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        let first = self.bytes.get(self.at).copied();
        let whole = self.digits()?;
        if first == Some(b'0') && whole > 1 {
            return None;
        }
        let mut kind = Kind::Integer;
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
            kind = Kind::Float;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
            kind = Kind::Float;
        }
        Some(kind)
    }

    fn digits(&mut self) -> Option<usize> {
        let count = self.bytes[self.at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        self.at += count;
        (count > 0).then_some(count)
    }
}

/// How many bytes come before the first quote, backslash or control character: eight at a time.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xFF;
    const HIGH: u64 = ONES << 7;
    /// The high bit of each byte that is below `bound`; above the first such byte there may be false ones.
    const fn below(word: u64, bound: u64) -> u64 {
        word.wrapping_sub(ONES * bound) & !word & HIGH
    }
    let (words, rest) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let special =
            below(word ^ (ONES * b'"' as u64), 1) | below(word ^ (ONES * b'\\' as u64), 1) | below(word, 0x20);
        if special != 0 {
            return number * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    words.len() * 8 + rest.iter().position(special).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn plain_bytes_are_counted_as_one_by_one(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x1e..0x24_u8, 0x5a..0x5e_u8], 0..40)) {
            let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
            prop_assert_eq!(plain(&bytes), bytes.iter().position(special).unwrap_or(bytes.len()));
        }
    }
}
