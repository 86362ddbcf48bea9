// @ts-check
/** Arithmetic of the grid: the largest tiles that let everybody be seen without scrolling. */

/**
 * @param {number} count
 * @param {number} width Of the space.
 * @param {number} height
 * @param {number} gap Between tiles.
 * @returns {{ width: number, height: number }} Of one tile.
 */
export function tileSize(count, width, height, gap) {
  // A face may be cut to a portrait on a phone that is held upright, and to a square in a narrow column.
  // One alone may have the whole of it.
  const upright = count === 1 ? 9 / 16 : 3 / 4;
  const [narrowest, widest] = width < height ? [upright, 16 / 9] : [1, 16 / 9];
  let best = { width: 0, height: 0 };
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const room = { width: (width - gap * (columns - 1)) / columns, height: (height - gap * (rows - 1)) / rows };
    const tile = {
      width: Math.min(room.width, room.height * widest),
      height: Math.min(room.height, room.width / narrowest),
    };
    if (tile.width * tile.height > best.width * best.height) best = tile;
  }
  // Rounded down: half a pixel too many would push a tile into another row.
  return { width: Math.max(0, Math.floor(best.width)), height: Math.max(0, Math.floor(best.height)) };
}
