//! Which bytes of an answer a client asks for.

/// What `Range` means for content of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: no range, or one that is none; that is to be ignored.
    Whole,
    /// From a byte, so many.
    Part {
        /// The first byte.
        from: u64,
        /// How many bytes, more than none.
        count: u64,
    },
    /// Nothing that is there.
    Nothing,
}

/// Reads the header `Range`. Several ranges at once are not served; the answer is the whole, as the standard allows.
pub(crate) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let ranges = header.and_then(|header| header.trim().strip_prefix("bytes="));
    let Some((first, last)) = ranges.and_then(|range| range.trim().split_once('-')) else {
        return Wanted::Whole;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // What is larger than any file is behind the end of each.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (Some(from), None) if last.is_empty() => part(from, u64::MAX, size),
        (Some(from), Some(to)) if from <= to => part(from, to, size),
        (None, Some(count)) if first.is_empty() => match count.min(size) {
            0 => Wanted::Nothing,
            count => Wanted::Part {
                from: size - count,
                count,
            },
        },
        _ => Wanted::Whole,
    }
}

fn part(from: u64, to: u64, size: u64) -> Wanted {
    if from >= size {
        return Wanted::Nothing;
    }
    Wanted::Part {
        from,
        count: to.min(size - 1) - from + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, size: u64, expected: Wanted) {
        assert_eq!(wanted(Some(header), size), expected, "{header} of {size}");
    }

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let part = |from, count| Wanted::Part { from, count };
        check("bytes=0-0", 10, part(0, 1));
        check("bytes=2-5", 10, part(2, 4));
        check("bytes=2-", 10, part(2, 8));
        check("bytes=2-99", 10, part(2, 8));
        check("bytes=-3", 10, part(7, 3));
        check("bytes=-30", 10, part(0, 10));
        check("bytes=0-99999999999999999999999", 10, part(0, 10));
        check("bytes=10-", 10, Wanted::Nothing);
        check("bytes=0-", 0, Wanted::Nothing);
        check("bytes=-0", 10, Wanted::Nothing);
        check("bytes=-1", 0, Wanted::Nothing);
        check("bytes=99999999999999999999999-", 10, Wanted::Nothing);
        for none in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=+1-2",
            "lines=1-2",
            "bytes=1-2,4-5",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=١-",
        ] {
            check(none, 10, Wanted::Whole);
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
    }
}
