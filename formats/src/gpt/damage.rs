//! Tables that are damaged, or that were made for a disk of another size.

use super::{
    HEAD_BYTES, HEADER_BYTES, LAST_USABLE, SECOND, SECTOR, TAIL_SECTORS, Table, crc32, first_copy,
    number, second_copy,
};
use crate::uuid::Uuid;

impl Table {
    /// What of a table is damaged, or of a disk of another size, on a disk of `sectors` sectors that still has a sound copy, in words;
    /// empty when all is sound or nothing is. `head` and `tail` as for [`Table::decode`].
    #[must_use]
    pub fn damage(head: &[u8], tail: &[u8], sectors: u64) -> Vec<String> {
        let mut found = Vec::new();
        let is_protected = head.get(510..512) == Some(&[0x55, 0xaa])
            && (0..4).any(|entry| head.get(446 + 16 * entry + 4) == Some(&0xee));
        if !is_protected {
            found.push("its first sector does not say that it has a GUID partition table".into());
        }
        let sound = match (first_copy(head, sectors), second_copy(tail, sectors)) {
            (Err(_), Err(_)) => return Vec::new(),
            (Err(_), Ok(_)) => {
                found.push("the first copy of the partition table is damaged".into());
                tail.get(SECOND..)
            }
            (Ok(_), Err(_)) => {
                let header = head.get(512..1024).unwrap_or_default();
                let of = number(header, 32, 8).saturating_add(1);
                found.push(if of == sectors {
                    "the second copy of the partition table is damaged".into()
                } else {
                    // The rest is wrong in the same way.
                    let bytes = of.saturating_mul(SECTOR);
                    format!("its partition table is of a disk of {bytes} bytes, so that the second copy is not at the end")
                });
                (of == sectors).then_some(header)
            }
            (Ok(first), Ok(second)) => {
                if first != second {
                    found.push("the two copies of the partition table differ".into());
                }
                head.get(512..1024)
            }
        };
        let usable = sectors.saturating_sub(TAIL_SECTORS + 1);
        if let Some(last) = sound.map(|header| number(header, LAST_USABLE, 8))
            && last != usable
        {
            found.push(format!(
                "its partition table gives partitions the sectors up to {last}, and on a disk of this size that is {usable}"
            ));
        }
        found
    }

    /// Writes both copies anew from the sound one, the first one when both are, with the entries as they are, for a disk of this
    /// size; with the id `disk`, where one is given. Code in the first sector stays. None when no copy is sound.
    #[must_use]
    pub fn mended(
        head: &[u8],
        tail: &[u8],
        sectors: u64,
        disk: Option<Uuid>,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let (table, header, entries) = match first_copy(head, sectors) {
            Ok(table) => (table, head.get(512..1024)?, head.get(1024..HEAD_BYTES)?),
            Err(_) => (
                second_copy(tail, sectors).ok()?,
                tail.get(SECOND..SECOND + 512)?,
                tail.get(..SECOND)?,
            ),
        };
        let end = sectors.checked_sub(1)?;
        let usable = end.checked_sub(TAIL_SECTORS)?;
        let disk = disk.unwrap_or(table.disk);
        let placed = |own: u64, other: u64, at: u64| {
            let mut header = header.to_vec();
            header[16..20].fill(0);
            header[24..32].copy_from_slice(&own.to_le_bytes());
            header[32..40].copy_from_slice(&other.to_le_bytes());
            header[LAST_USABLE..LAST_USABLE + 8].copy_from_slice(&usable.to_le_bytes());
            header[56..72].copy_from_slice(&disk.to_guid());
            header[72..80].copy_from_slice(&at.to_le_bytes());
            let crc = crc32(&header[..HEADER_BYTES]);
            header[16..20].copy_from_slice(&crc.to_le_bytes());
            header
        };
        let mut first = table.mbr().to_vec();
        first[..446].copy_from_slice(head.get(..446)?);
        first.extend_from_slice(&placed(1, end, 2));
        first.extend_from_slice(entries);
        let second = [entries, &placed(end, 1, end.checked_sub(32)?)].concat();
        Some((first, second))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::table;
    use super::super::{GptError, TAIL_BYTES};
    use super::*;

    #[test]
    fn what_is_damaged_is_told_and_mended() {
        let table = table();
        let (head, tail) = table.encode().expect("a table");
        assert!(Table::damage(&head, &tail, table.sectors).is_empty());
        let whole = (head.clone(), tail.clone());
        assert_eq!(
            Table::mended(&head, &tail, table.sectors, None).as_ref(),
            Some(&whole)
        );
        let header = SECOND..TAIL_BYTES;
        for (place, in_tail, word) in [
            (0..512, false, "first sector"),
            (512..1024, false, "first copy"),
            (1024..1100, false, "first copy"),
            (0..100, true, "second copy"),
            (header, true, "second copy"),
        ] {
            let (mut head, mut tail) = whole.clone();
            if in_tail {
                tail[place].fill(0);
            } else {
                head[place].fill(0);
            }
            let found = Table::damage(&head, &tail, table.sectors);
            assert!(found.len() == 1 && found[0].contains(word), "{found:?}");
            assert_eq!(
                Table::mended(&head, &tail, table.sectors, None).as_ref(),
                Some(&whole)
            );
        }
        let (zeros, none) = ([0; HEAD_BYTES], [0; TAIL_BYTES]);
        assert_eq!(Table::mended(&zeros, &none, table.sectors, None), None);
    }

    #[test]
    fn a_table_of_a_disk_of_another_size_is_told_and_mended() {
        let table = table();
        let (head, _tail) = table.encode().expect("a table");
        let nothing = vec![0; TAIL_BYTES];
        let bytes = table.sectors * SECTOR;
        // Larger, smaller with room for all, and smaller than its partitions.
        for (sectors, fits) in [
            (table.sectors + 4096, true),
            (999_424 + 33, true),
            (999_424 + 32, false),
        ] {
            let found = Table::damage(&head, &nothing, sectors);
            let mended = Table::mended(&head, &nothing, sectors, None);
            if !fits {
                assert!(found.is_empty() && mended.is_none());
                assert_eq!(
                    Table::decode(&head, &nothing, sectors),
                    Err(GptError::Place("wurzel-ä".to_owned()))
                );
                continue;
            }
            assert_eq!(
                found,
                [format!(
                    "its partition table is of a disk of {bytes} bytes, so that the second copy is not at the end"
                )]
            );
            let expected = Table {
                sectors,
                ..table.clone()
            };
            assert_eq!(mended, expected.encode().ok());
        }
        // A copy that somebody has brought to the end, and nothing else.
        let larger = Table {
            sectors: table.sectors + 4096,
            ..table.clone()
        };
        let (mut head, mut tail) = larger.encode().expect("a table");
        for header in [&mut head[512..1024], &mut tail[SECOND..]] {
            header[LAST_USABLE..LAST_USABLE + 8]
                .copy_from_slice(&(table.sectors - 34).to_le_bytes());
            header[16..20].fill(0);
            let crc = crc32(&header[..HEADER_BYTES]);
            header[16..20].copy_from_slice(&crc.to_le_bytes());
        }
        assert_eq!(
            Table::damage(&head, &tail, larger.sectors),
            [
                "its partition table gives partitions the sectors up to 1048542, and on a disk of this size that is 1052638"
            ]
        );
        let other = Uuid::derived("test", "other");
        let named = Table {
            disk: other,
            ..larger.clone()
        };
        assert_eq!(
            Table::mended(&head, &tail, larger.sectors, Some(other)),
            named.encode().ok()
        );
    }
}
