//! Nix's `builtin:unpack-channel`: the one directory of an archive, under the name of a channel.

use std::fs::{self, File};

use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};

use crate::build::text_of;
use crate::fetch::archive;

/// Unpacks `src` to `out/<channelName>`.
#[derive(Clone, Copy, Debug)]
pub struct UnpackChannelBuilder;

impl Builder for UnpackChannelBuilder {
    fn name(&self) -> &'static str {
        "builtin:unpack-channel"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let channel = text_of(ctx, "channelName")?;
        if channel.is_empty() || channel.contains('/') || matches!(channel, "." | "..") {
            return Err(BuilderError::failed(format!(
                "`channelName` of `{}` is `{channel}`, which is no file name",
                ctx.name
            )));
        }
        let source = text_of(ctx, "src")?;
        let mut file = File::open(ctx.physical(source)?)
            .map_err(|e| BuilderError::io(format!("cannot read `{source}`"), e))?;
        let out = ctx.out_path("out");
        fs::create_dir(&out)
            .map_err(|e| BuilderError::io(format!("cannot create `{}`", out.display()), e))?;
        let work = ctx.work_dir()?;
        archive::unpack(&mut file, &work, &out.join(channel))
            .map_err(|e| BuilderError::failed(format!("cannot unpack `{source}`: {e}")))?;
        Ok(())
    }
}
