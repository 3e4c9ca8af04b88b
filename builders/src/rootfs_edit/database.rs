//! `/etc/passwd`, `/etc/group`, `/etc/shadow` and `/etc/gshadow`: lines that are not understood stay as they are, new ones
//! go to the end.

use sos_engine::BuilderError;

use super::editor::Editor;

/// A line of colon-separated fields, or one that is kept because it is not understood.
type Line = Vec<String>;

/// One of the four files.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    lines: Vec<Line>,
}

impl Table {
    /// Reads a file; one that does not exist is empty.
    pub(super) fn read(editor: &Editor<'_>, path: &str) -> Result<Self, BuilderError> {
        let bytes = editor.read(path.as_bytes())?.unwrap_or_default();
        let text = String::from_utf8(bytes).map_err(|_utf8| {
            BuilderError::failed(format!("`/{path}` is not UTF-8, so sos does not touch it"))
        })?;
        Ok(Self {
            lines: text
                .lines()
                .map(|line| line.split(':').map(str::to_owned).collect())
                .collect(),
        })
    }

    /// Gives the text of the file.
    pub(super) fn text(&self) -> String {
        self.lines
            .iter()
            .map(|line| line.join(":") + "\n")
            .collect()
    }

    /// Finds a line by its name.
    pub(super) fn find(&self, name: &str) -> Option<&Line> {
        self.lines
            .iter()
            .find(|line| line.len() > 1 && line[0] == name)
    }

    /// Puts a line in the place of the one with the same name, or at the end.
    pub(super) fn set(&mut self, line: Line) {
        match self
            .lines
            .iter_mut()
            .find(|old| old.len() > 1 && old[0] == line[0])
        {
            Some(old) => *old = line,
            None => self.lines.push(line),
        }
    }

    /// Adds a member to the list in the last field of a line.
    pub(super) fn add_member(&mut self, group: &str, member: &str) {
        let line = self
            .lines
            .iter_mut()
            .find(|line| line.len() == 4 && line[0] == group);
        let Some(members) = line.and_then(|line| line.last_mut()) else {
            return;
        };
        if members.split(',').any(|name| name == member) {
            return;
        }
        if !members.is_empty() {
            members.push(',');
        }
        members.push_str(member);
    }
}

/// A user of the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A group of the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) gid: u32,
}

/// The users of a root file system.
pub(super) struct Users(pub(super) Vec<User>);

impl Users {
    pub(super) fn read(editor: &Editor<'_>) -> Result<Self, BuilderError> {
        Ok(Self::of(&Table::read(editor, "etc/passwd")?))
    }

    pub(super) fn of(table: &Table) -> Self {
        let users = table.lines.iter().filter(|line| line.len() == 7);
        let users = users.filter_map(|line| {
            Some(User {
                name: line[0].clone(),
                uid: line[2].parse().ok()?,
                gid: line[3].parse().ok()?,
            })
        });
        Self(users.collect())
    }

    pub(super) fn find(&self, name: &str) -> Option<&User> {
        self.0.iter().find(|user| user.name == name)
    }

    pub(super) fn by_uid(&self, uid: u32) -> Option<&User> {
        self.0.iter().find(|user| user.uid == uid)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|user| user.name.as_str())
    }
}

/// The groups of a root file system.
pub(super) struct Groups(pub(super) Vec<Group>);

impl Groups {
    pub(super) fn read(editor: &Editor<'_>) -> Result<Self, BuilderError> {
        Ok(Self::of(&Table::read(editor, "etc/group")?))
    }

    pub(super) fn of(table: &Table) -> Self {
        let groups = table.lines.iter().filter(|line| line.len() == 4);
        Self(
            groups
                .filter_map(|line| {
                    Some(Group {
                        name: line[0].clone(),
                        gid: line[2].parse().ok()?,
                    })
                })
                .collect(),
        )
    }

    pub(super) fn find(&self, name: &str) -> Option<&Group> {
        self.0.iter().find(|group| group.name == name)
    }

    pub(super) fn by_gid(&self, gid: u32) -> Option<&Group> {
        self.0.iter().find(|group| group.gid == gid)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|group| group.name.as_str())
    }
}
